"""Operator rules: which dims of an operator may be split, as data, and the operator's local version."""

from .book import RuleBook, default_rules
from .call import arguments, op_name, tensor_args, tensor_results
from .local_call import localise, localise_on_axis
from .projection import Projection
from .rule_text import read
from .strategies import factor_of, project, splittable
from .user import rule

__all__ = [
    "Projection", "RuleBook", "arguments", "default_rules", "factor_of", "localise", "localise_on_axis", "op_name",
    "project", "read", "rule", "splittable", "tensor_args", "tensor_results",
]  # fmt: skip
