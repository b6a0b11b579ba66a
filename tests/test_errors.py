"""Complaints: raised, or collected for somebody who wants to hear all of them."""

import pytest

from hlfd import plugins
from hlfd.errors import InputError, collecting, complain


def test_a_complaint_is_an_error_unless_somebody_collects():
    with collecting() as found:
        complain("a")
        complain("b")
    assert found == ["a", "b"]
    with pytest.raises(InputError, match="c"):
        complain("c")


def test_collecting_ends_with_an_error_too():
    with pytest.raises(KeyError), collecting():
        raise KeyError
    with pytest.raises(InputError):
        complain("a")


def test_a_source_leaves_out_what_it_complains_of(kits_root):
    (kits_root / "case_00001" / "imaging.nii.gz").unlink()
    with pytest.raises(InputError, match="case_00001: has a segmentation and no imaging"):
        plugins.load("sources", "kits", kits_root)
    with collecting() as found:
        source = plugins.load("sources", "kits", kits_root)
    assert [case.id for case in source.cases] == ["case_00000", "case_00002"]
    assert len(found) == 1
