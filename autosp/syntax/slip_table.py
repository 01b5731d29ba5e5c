"""The common slips, a row each; `slips` reads the table."""

from __future__ import annotations

import re

import attrs


@attrs.frozen
class Slip:
    """One named slip.

    It is meant where one of `expects` (kinds of word, parted by '|') could have stood, the text
    before matches `before` and the text after matches `found`. {found}, {last} and {keyword} stand
    for the word found, the one before it, and the first of the statement. No `rule` means its form.
    """

    expects: str
    before: str
    found: str
    what: str
    fix: str
    rule: str = ""

    def fits(self, expected: frozenset[str], before: str, after: str) -> bool:
        """Whether this is what went wrong between `before` and `after`."""
        return (
            not expected.isdisjoint(self.expects.split("|"))
            and re.search(self.before, before) is not None
            and re.match(self.found, after) is not None
        )


FORMS = {
    "family": "family NAME",
    "match": "match CLASS, CLASS",
    "include": "include FILE",
    "mesh": "mesh [AXIS: local, AXIS], where ': local' may be left out",
    "dim": "dim NAME = SIZE, or dim NAME divides AXIS",
    "input": "input NAME LAYOUT, and 'optional' where a call may lack it",
    "output": "output NAME LAYOUT, or output NAME none, local or whole",
    "attention": "attention ulysses, gather or auto",
    "constrain": "constrain MODULE-PATH input LAYOUT, or constrain MODULE-PATH output LAYOUT",
    "map": "map MODULE-PATH over DIM",
    "recompute": "recompute none, full, sac, or sac budget AMOUNT",
    "tile": "tile loss, tile mlp or tile mask, then auto, none, or a number of tiles",
    "offload": "offload residual auto, or offload residual none",
    "reduce": "reduce loss mean over [AXIS, AXIS]",
}
LAYOUT_FORM = "a layout is [DIM, DIM], each DIM a name, name@axis, name@(axis axis), (name name@axis), '_' or '...'"

END = r"\s*(#.*)?$"
OPEN_PAREN = r"\([^()]*$"
AXES_RULE = "the axes of a dim follow one '@', in parentheses and with spaces between where there are several"
MERGED_RULE = "the dims that are merged into one stand in parentheses with spaces between, as in einops"
COMMA_RULE = "the dims of a layout have commas between them"
BRACKET_RULE = "a layout stands in square brackets"
UNIT_RULE = "a budget is a number with B, KiB, MiB, GiB or TiB (or KB, MB, GB, TB), or a fraction such as 0.5"
PATH_RULE = "a module path is names, numbers and '*' with one dot between, as named_modules() gives them"
MESH_RULE = "a mesh names its axes; their sizes are those of the run"

SLIPS: tuple[Slip, ...] = (
    # Anywhere.
    Slip(
        "LAYOUT|NAME|PATH|COMMA|RSQB|$END",
        "",
        "[\u00a0\u2000-\u200b\u202f\u3000\ufeff]",
        "a space that is none of the keyboard's stands here",
        "replace it by an ordinary space",
        "words are parted by spaces, tabs and line ends",
    ),
    Slip(
        "LSQB|LAYOUT|NAME|PATH|FILE|ULYSSES|SAC|LOSS",
        r"^\w+$",
        "[:=]",
        "'{found}' after '{keyword}'",
        "drop the '{found}'",
    ),
    Slip(
        "$END",
        "",
        ";",
        "';' at the end of a statement",
        "drop the ';', and begin a new line for a new statement",
        "one statement stands on one line",
    ),
    Slip(
        "LAYOUT|NAME",
        "",
        "['\"`\u2018-\u201f]",
        "a quotation mark",
        "drop the quotation marks",
        "words and layouts stand as they are, without quotation marks",
    ),
    Slip(
        "NAME",
        "",
        r"_(?!\w)",
        "'_' where a name belongs",
        "write a name",
        "'_' stands for a dim without a name, in layouts only",
    ),
    # Where a layout begins.
    Slip(
        "NONE",
        "^output",
        END,
        "it is not said how output '{last}' comes back",
        "write a layout, such as [], or one of none, local and whole",
    ),
    Slip("LAYOUT", "", END, "{keyword} '{last}' has no layout", "write its layout, such as [batch@dp, seq@sp]"),
    Slip("LAYOUT", "", r"\(", "a layout in parentheses", "write [ and ] for the outer ( and )", BRACKET_RULE),
    Slip("LAYOUT", "", r"P\(", "P(...) is Python", "write it as text, such as [_@dp, _@sp]", BRACKET_RULE),
    Slip("LAYOUT", "", "[:=,]", "'{found}' between a name and its layout", "drop the '{found}'"),
    Slip(
        "LAYOUT",
        r"^(input|constrain)\b",
        r"(none|local|whole)\b",
        "'{found}' where a layout belongs",
        "write a layout, such as [batch@dp, seq@sp]",
        "none, local and whole are said of outputs only",
    ),
    Slip("LAYOUT", "", r"[\w.]+\s*[@,\]]", "the layout's '[' is missing", "write [ before '{found}'", BRACKET_RULE),
    Slip(
        "NAME",
        r"^(input|output)\s*$",
        r"\[",
        "the {keyword} has no name",
        "write the argument's name before the layout, such as {keyword} input_ids [batch@dp, seq@sp]",
    ),
    # The mesh.
    Slip(
        "LSQB", r"^mesh\s*$", r"\w|\(", "the mesh is not in square brackets", "write for example: mesh [dp: local, sp]"
    ),
    Slip("NAME", r"^mesh\s*\[\s*$", r"\]", "a mesh without axes", "write for example: mesh [dp: local, sp]"),
    Slip(
        "LOCAL",
        "",
        r"(global|whole|none)\b",
        "'{found}' is not a kind of axis",
        "drop ': {found}'",
        "an axis is local, or nothing is said of it",
    ),
    Slip("COLON|LOCAL", r"^mesh\b", r"(=\s*)?\d", "an axis is given a size", "drop the size", MESH_RULE),
    Slip("COLON", r"^mesh\b", r"=\s*local\b", "'=' before 'local'", "write '{last}: local'"),
    Slip("COMMA", r"^mesh\s*\[.*\w\s*$", r"local\b", "'local' without its colon", "write '{last}: local'"),
    # Inside a layout: axes.
    Slip("NAME", r"@\s*$", r"\[", "axes in square brackets", "write @(sp tp)", AXES_RULE),
    Slip(
        "NAME",
        r"@\s*$",
        rf"[\],)]|{END}",
        "no axis after '@'",
        "write the axis, such as 'seq@sp', or drop the '@'",
        AXES_RULE,
    ),
    Slip("RPAR|NAME", rf"@\s*{OPEN_PAREN}", ",", "a comma between the axes of one dim", "write @(sp tp)", AXES_RULE),
    Slip(
        "NAME",
        r"@\s*\(\s*$",
        r"\)",
        "no axis in '@()'",
        "write the axis, such as 'seq@sp', or drop the '@()'",
        AXES_RULE,
    ),
    Slip(
        "COMMA|RPAR",
        r"@\s*\w+\s*$",
        "@",
        "a second '@' after one dim",
        "write @({last} ...) for several axes",
        AXES_RULE,
    ),
    Slip(
        "AT|COMMA",
        r"\w\s*$",
        r"[:=]\s*\w",
        "'{found}' between a dim and its axis",
        "write '@' for the '{found}'",
        "the axes that split a dim follow an '@'",
    ),
    Slip(
        "$END",
        r"\]\s*$",
        r"sum\b",
        "a sum over no axis",
        "write the axis, such as sum@sp",
        "a partial sum is written sum@AXIS",
    ),
    # Inside a layout: merged dims.
    Slip(
        "RPAR|NAME",
        OPEN_PAREN,
        ",",
        "a comma inside a merged dim",
        "write spaces, such as (batch@dp seq@sp)",
        MERGED_RULE,
    ),
    Slip("NAME", r"\(\s*$", r"\)", "a merged dim of no parts", "name its parts, or write '1'", MERGED_RULE),
    Slip("NAME|RPAR", OPEN_PAREN, r"\(", "parentheses inside parentheses", "write all parts in one pair", MERGED_RULE),
    Slip(
        "RPAR|NAME", OPEN_PAREN, rf"\]|{END}", "a '(' that is not closed", "write ')' after the last part", MERGED_RULE
    ),
    Slip("NAME", OPEN_PAREN, r"\.\.\.", "'...' inside a merged dim", "name the parts that are merged", MERGED_RULE),
    # Inside a layout: dims.
    Slip("INT", "", r"\d+[A-Za-z_]", "'{found}' is neither a name nor a size", "begin the name with a letter", ""),
    Slip(
        "NAME",
        r"[\[,]\s*$",
        "@",
        "an axis without a dim",
        "name the dim, such as 'seq@sp', or write '_@sp'",
        "the axes that split a dim follow its name",
    ),
    Slip(
        "NAME",
        r",\s*$",
        r"[,\]]",
        "a comma with nothing after it",
        "drop the comma, or write what follows it",
        COMMA_RULE,
    ),
    Slip("NAME", r"^\[\s*$|^\w+.*\[\s*$", ",", "a comma with nothing before it", "drop the comma", COMMA_RULE),
    Slip(
        "ELLIPSIS", "", r"\.\.?(?!\.)|\u2026", "'{found}' is not a dim", "write '...' for dims that are not split", ""
    ),
    Slip("ELLIPSIS", "", r"\*", "'*' is not a dim", "write '...' for all dims that are not named, or '_' for one", ""),
    Slip(
        "ELLIPSIS",
        "",
        r"-\s*\d",
        "a negative size",
        "write the dim's name, its size, or '_'",
        "a size is a whole number from 1",
    ),
    Slip("ELLIPSIS", "", r"\[", "a bracket inside a layout", "write ( and ) around dims that are merged", MERGED_RULE),
    Slip(
        "RSQB",
        "",
        rf"{END}|(optional|sum)\b|(none|local|whole)\b",
        "a '[' that is not closed",
        "write ']' after '{last}'",
        "every '[' has its ']'",
    ),
    Slip(
        "COMMA",
        r"\[.*[\w)]\s*$",
        r"[\w(]",
        "no comma between '{last}' and '{found}'",
        "write '{last}, {found}'",
        "what stands in square brackets has commas between",
    ),
    # Other statements.
    Slip("COMMA", r"^match\b", r"\w", "no comma between '{last}' and '{found}'", "write '{last}, {found}'"),
    Slip("NAME", r"^match\b.*,\s*$", END, "a comma with no class name after it", "drop the comma"),
    Slip(
        "COLON|EQUAL|COMMA|$END|DIVIDES",
        r"^(family|match)\b",
        r"[-.]",
        "'{found}' in a name",
        "write '_' for it",
        "a name is letters, digits and '_', and does not begin with a digit",
    ),
    Slip(
        "INPUT|OVER",
        r"^(constrain|map)\b",
        r"\[\s*[\d*]",
        "an index in square brackets in a module path",
        "write the index after a dot, such as model.layers.0.mlp, or '*' for all",
        PATH_RULE,
    ),
    Slip(
        "INPUT|OVER",
        r"^(constrain|map)\b",
        r"\.|/",
        "'{found}' in a module path",
        "write one dot between two names",
        PATH_RULE,
    ),
    Slip(
        "INPUT",
        r"^constrain\b",
        rf"\[|{END}",
        "it is not said whether the input or the output is meant",
        "write 'input' or 'output' after the module's path",
    ),
    Slip("BUDGET", r"sac\s+$", r"[\d.]", "'budget' is missing", "write: recompute sac budget {found}"),
    Slip(
        "SAC", r"^recompute\s*$", r"[\d.]|budget", "'sac' is missing", "write for example: recompute sac budget 20GiB"
    ),
    Slip("$END", r"budget\s+[\d.]+$", "%", "a percentage", "write a fraction: 0.5 for 50%", UNIT_RULE),
    Slip("AMOUNT", "", r"[\d.]+[A-Za-z]", "no such amount as '{found}'", "write for example 20GiB", UNIT_RULE),
    Slip("AMOUNT", "", r"\.\d", "a number that begins with '.'", "write a 0 before it", UNIT_RULE),
    Slip("LSQB", r"\bover\s*$", r"\w|\(", "the axes are not in square brackets", "write [{found}]"),
    Slip("EQUAL", r"^dim\b", r"\d|:", "'=' is missing", "write: dim {last} = SIZE"),
    Slip(
        "INT",
        r"=\s*$",
        r"\w|-|=",
        "'{found}' is not a size",
        "write a number, such as dim seq = 4096",
        "a size is a whole number from 1",
    ),
)
