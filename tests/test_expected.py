"""Golden texts are held unless --renew is given, and then written."""

import pytest

from tests import expected
from tests.failures import without_counts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(expected, "GOLDEN", tmp_path)
    return tmp_path


def test_a_text_is_held(folder, monkeypatch):
    monkeypatch.setattr(expected, "renewing", False)
    (folder / "a.txt").write_text("one\n")
    expected.expect("a.txt", "one\n")
    with pytest.raises(AssertionError):
        expected.expect("a.txt", "two\n")
    with pytest.raises(AssertionError):
        expected.expect("new/b.txt", "two\n")
    assert (folder / "a.txt").read_text() == "one\n" and not (folder / "new").exists()


def test_a_text_is_written_anew_where_it_is_another_one(folder, monkeypatch):
    monkeypatch.setattr(expected, "renewing", True)
    (folder / "a.txt").write_text("7 operators\n")
    expected.expect("a.txt", "8 operators\n", same=without_counts)
    assert (folder / "a.txt").read_text() == "7 operators\n"
    expected.expect("a.txt", "8 operators\n")
    expected.expect("new/b.txt", "two\n")
    assert ((folder / "a.txt").read_text(), (folder / "new" / "b.txt").read_text()) == ("8 operators\n", "two\n")


def test_a_block_is_written_anew_and_the_others_stay(folder, monkeypatch):
    monkeypatch.setattr(expected, "renewing", True)
    (folder / "a.txt").write_text("=== one\nold\n\n=== two\nkept\n")
    expected.expect_block("a.txt", "one", "new\nlines")
    assert (folder / "a.txt").read_text() == "=== one\nnew\nlines\n\n=== two\nkept\n"
    monkeypatch.setattr(expected, "renewing", False)
    expected.expect_block("a.txt", "two", "kept")
    assert expected.names("a.txt") == {"one", "two"}
    with pytest.raises(AssertionError):
        expected.expect_block("a.txt", "one", "other")
