from autosp.syntax import At, Source, problem_at

TEXT = "first\n  second word\nthird"


def test_positions_are_counted_from_one():
    source = Source("f.spec", TEXT)
    assert source.position(0) == (1, 1)
    assert source.where(TEXT.index("word")) == "f.spec:2:10"


def test_the_caret_stands_under_the_word():
    start = TEXT.index("word")
    problem = problem_at(At(Source("f", TEXT), start, start + 4), "what", "rule", "fix")
    assert problem.excerpt == "  second word\n         ^^^^"


def test_the_caret_stays_on_its_line():
    start = TEXT.index("word")
    assert Source("f", TEXT).excerpt(start, len(TEXT)) == "  second word\n         ^^^^"


def test_a_caret_at_the_end_stands_after_it():
    assert Source("f", "abc").excerpt(3, 3) == "abc\n   ^"


def test_a_long_line_is_shown_around_the_caret():
    line, carets = Source("f", "x" * 500 + "HERE" + "y" * 500).excerpt(500, 504).split("\n")
    assert len(line) <= 160
    assert line[carets.index("^") :][: carets.count("^")] == "HERE"


def test_what_does_not_print_takes_one_column():
    assert Source("f", "a\tb\x00c").excerpt(4, 5) == "a b c\n    ^"
