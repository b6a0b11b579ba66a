"""DICOM in and out: a 512 x 512 x 129 CT written as a series; processor seconds, beside SimpleITK's reader.

python benchmarks/dicom.py ../shared/data/ircad01_p01
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dicom_files import write_series
from hlfd.io import dicom


def measured(what: str, do: Callable, times: int = 3):
    """The result; prints the least processor time of some runs."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        result = do()
        seconds.append(time.process_time() - start)
    print(f"{what:24} {min(seconds):.2f} s")
    return result


def by_simpleitk(folder: Path) -> np.ndarray:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute())


def main(case: Path) -> None:
    image, labels = (nib.load(case / f"{name}.nii.gz") for name in ("imaging", "segmentation"))
    upright = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LPS"))
    image, labels = image.as_reoriented(upright), labels.as_reoriented(upright)
    hu, classes = np.asanyarray(image.dataobj).astype(np.int16), np.asanyarray(labels.dataobj).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_series(root / "ct", hu, image.affine)
        (series,) = measured("list_series", lambda: dicom.list_series(root / "ct"))
        volume = measured("read_volume", lambda: dicom.read_volume(series))
        theirs = measured("SimpleITK, list and read", lambda: by_simpleitk(root / "ct"))
        assert np.array_equal(volume.voxels, hu) and np.array_equal(theirs.transpose(2, 1, 0), hu)
        seg, names = root / "seg.dcm", ["liver", "tumor", "kidney"]
        measured("write_seg, 3 segments", lambda: dicom.write_seg(seg, volume.like(classes), series, names))
        back = measured("read_seg", lambda: dicom.read_seg(seg, volume).labels({1: 1, 2: 2, 3: 3}))
        assert np.array_equal(back.voxels, classes)
        print(f"SEG of {seg.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
