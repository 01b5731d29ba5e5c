"""Operator rules: which dims of an operator may be split and what kind it is of, as data; its local version."""

from .book import RuleBook, default_rules, functional_of, traits
from .call import arguments, op_name, tensor_args, tensor_results, with_arguments
from .local_call import localise, localise_on_axis
from .nodes import argument, drawless, is_a, is_call, named, places
from .operator_traits import Traits
from .projection import Projection
from .rule_text import read
from .strategies import factor_of, project, splittable
from .user import rule

__all__ = [
    "Projection", "RuleBook", "Traits", "argument", "arguments", "default_rules", "drawless", "factor_of",
    "functional_of", "is_a", "is_call", "localise", "localise_on_axis", "named", "op_name", "places", "project", "read",
    "rule", "splittable", "tensor_args", "tensor_results", "traits", "with_arguments",
]  # fmt: skip
