"""hlfd taps reads the folders of nnU-Net and MONAI too."""

import pytest

from hlfd.errors import InputError
from hlfd.study.taps import overview


def test_an_nnunet_folder(nnunet):
    made = nnunet()
    found = overview(str(made.folder))
    roles = {tap.role for tap in found.taps}
    assert {"e1", "e5", "d5", "d2", "logits"} <= roles
    assert found.methods["hlfd"][1] is None  # it can teach it
    assert str(made.folder) in found.title
    with pytest.raises(InputError, match="fold"):
        overview(str(made.folder), options=["fold=7"])


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InputError, match="not a trained model of a kind that is known"):
        overview(str(tmp_path))
