"""Predictor: the slab-wise way gives what the simple way gives, which holds all probabilities at once."""

import json
from itertools import cycle, product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hlfd.data import views
from hlfd.data.geometry import SLAB
from hlfd.data.postprocess import Postprocess
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError
from hlfd.inference import Predictor, predict
from hlfd.inference.canvas import Canvas
from hlfd.inference.orientations import averaged, turns
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network
from hlfd.volume import AXCODES, Volume

LABELS = organ_and_tumor("both", "kidney")
WINDOW = (-200.0, 300.0)
SHAPE = (37, 26, 23)  # more slices than two slabs, resampled or not


def image(axcodes: str = AXCODES, shape: tuple[int, int, int] = SHAPE) -> Volume:
    voxels = np.random.default_rng(0).integers(-400, 500, shape).astype(np.int16)
    return Volume(voxels, np.array([[0, 0, -0.8, 9], [0, -0.9, 0, 8], [2.5, 0, 0, 7], [0, 0, 0, 1.0]])).oriented(
        axcodes
    )


def segmenter(**options) -> Segmenter:
    preprocess = Preprocess(window_hu=WINDOW, **options)
    torch.manual_seed(0)
    network = build_network("unet", {"width": 2}, 3, in_channels=preprocess.channels, dims=preprocess.dims)
    network.train()(torch.randn(2, preprocess.channels, *[16] * preprocess.dims))
    with torch.no_grad():  # classes that are all there
        scores = network.eval().network(torch.rand(1, preprocess.channels, *[32] * preprocess.dims) * 2 - 1)
        head, scores = network.network.get_submodule("head"), scores.transpose(0, 1).flatten(1)
        head.bias.sub_(scores.median(1).values)
        for parameter in head.parameters():
            parameter.mul_(4 / scores.std(1).mean())
        head.bias.add_(torch.tensor([0.0, 0.3, -0.3]))  # where the network is dead no two classes are equal
    return Segmenter(network, "unet", {"width": 2}, preprocess, LABELS)


@torch.no_grad()
def simple_way(model: Segmenter, volume: Volume) -> np.ndarray:
    """Class probabilities of the whole upright volume: all of it at once, the network as it was trained."""
    shown, network = model.preprocess, model.network.network
    geometry = shown.geometry(volume)
    stack = torch.from_numpy(shown.prepared(volume, geometry).voxels)

    def ask(batch: torch.Tensor) -> torch.Tensor:
        size = batch.shape[2:]
        pad = [p for n in reversed(size) for p in (0, -n % 16)]
        return network(F.pad(batch, pad, value=-1.0))[(..., *map(slice, size))].softmax(1)

    count = len(stack)
    window = shown.window(geometry.shape)
    if shown.dims == 2:
        near = [
            [min(max(k + o, 0), count - 1) for o in range(-shown.neighbours, shown.neighbours + 1)]
            for k in range(count)
        ]
        stack = stack[torch.tensor(near)].transpose(0, 1)  # C x slices x rows x columns
    else:
        stack = stack[None]
    padded = [max(n, w) for n, w in zip(geometry.shape, window, strict=True)]
    stack = F.pad(
        stack, [p for n, m in reversed([*zip(geometry.shape, padded, strict=True)]) for p in (0, m - n)], value=-1.0
    )
    sums, total = torch.zeros(3, *padded), torch.zeros(padded)
    weights = views.importance(window)
    for corner in views.overlapping(geometry.shape, window, 0.5):
        place = tuple(slice(i, i + w) for i, w in zip(corner, window, strict=True))
        part = stack[(slice(None), *place)][None]
        answer = ask(part[:, :, 0])[:, :, None] if shown.dims == 2 else ask(part)
        sums[(slice(None), *place)] += answer[0] * weights
        total[place] += weights
    mean = (sums / total)[(slice(None), *map(slice, geometry.shape))]
    whole = slice(0, geometry.upright[0])
    return geometry.scores(mean.transpose(0, 1), slice(0, geometry.shape[0]), whole).numpy()


WAYS = [
    {},
    {"crop": (16, 32)},
    {"size": (40, 32)},
    {"spacing_mm": 1.7, "crop": (16, 16)},
    {"neighbours": 2},
    {"neighbours": 1, "slice_mm": 4.1},
    {"patch": (16, 16)},
    {"patch": (16, 32), "neighbours": 1, "spacing_mm": 0.6},
    {"patch": (16, 16, 16)},
    {"patch": (48, 32, 16)},
    {"patch": (16, 16, 16), "slice_mm": 4.1, "spacing_mm": 1.1},
    {"patch": (16, 16, 16), "slice_mm": 1.7},
]


@pytest.mark.parametrize(("options", "axcodes"), [*zip(WAYS, cycle((AXCODES, "LIA")), strict=False)], ids=str)
def test_slab_by_slab_is_exact_at_every_border(options, axcodes):
    volume, model = image(axcodes), segmenter(**options)
    expected = simple_way(model, volume)
    found = Predictor(model, batch_size=3).run(volume, probabilities=True)
    upright = found.labels.oriented(AXCODES).voxels
    order = np.sort(expected, 1)
    sure = order[:, -1] - order[:, -2] > 1e-4  # else the two classes are equal but for rounding
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(upright[sure], expected.argmax(1)[sure])
    assert len(np.unique(upright)) > 1
    assert found.probabilities is not None
    shares = np.stack([volume.like(p).oriented(AXCODES).voxels for p in np.moveaxis(found.probabilities, -1, 0)], 1)
    np.testing.assert_allclose(shares / 65535, expected, atol=2e-4)
    plain = Predictor(model, batch_size=5).predict(volume)  # another way through, where nothing is resampled
    assert plain.shape == volume.shape
    np.testing.assert_array_equal(plain.affine, volume.affine)
    np.testing.assert_array_equal(plain.oriented(AXCODES).voxels[sure], upright[sure])


def test_the_step_size_sets_how_far_windows_overlap():
    model, volume = segmenter(patch=(16, 16, 16)), image()
    seen: list[int] = []
    for step in (1.0, 0.5, 0.25):
        predictor = Predictor(model, step_size=step)
        count = [0]
        predictor.network.register_forward_hook(
            lambda module, args, out, count=count: count.__setitem__(0, count[0] + len(out))
        )
        predictor.predict(volume)
        seen.append(count[0])
    assert seen[0] == 3 * 2 * 2
    assert seen[0] < seen[1] < seen[2]


@pytest.mark.parametrize(
    ("tta", "dims", "count"), [("none", 2, 1), ("flips", 2, 4), ("all", 2, 8), ("flips", 3, 8), ("all", 3, 8)]
)
def test_orientations_are_all_different_and_turned_back(tta, dims, count):
    batch = torch.randn(1, 1, *[6, 5, 4][:dims])
    seen: list[bytes] = []

    def ask(turned: torch.Tensor) -> torch.Tensor:
        seen.append(bytes(str(turned.tolist()), "ascii"))
        return turned * 3

    torch.testing.assert_close(averaged(ask, batch, turns(tta, dims)), batch * 3)
    assert len(set(seen)) == len(seen) == count


def test_test_time_augmentation_averages_class_probabilities():
    model, volume = segmenter(), image(shape=(2, 32, 48))
    prepared = torch.from_numpy(model.preprocess.prepared(volume).voxels)[:, None]
    with torch.no_grad():
        views8 = []
        for k, flip in product(range(4), (False, True)):
            turned = torch.rot90(prepared.flip(-1) if flip else prepared, k, (-2, -1))
            answer = torch.rot90(model.network.network(turned).softmax(1), -k, (-2, -1))
            views8.append(answer.flip(-1) if flip else answer)
    expected = torch.stack(views8).mean(0)
    with torch.inference_mode():
        found = Predictor(model, tta="all").probabilities(prepared)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found.argmax(1) != views8[0].argmax(1)).any()


def test_the_model_stays_as_it_was():
    model, volume = segmenter(), image()
    before = {name: value.clone() for name, value in model.network.network.state_dict().items()}
    predict(model, volume)
    assert before.keys() == model.network.network.state_dict().keys()
    for name, value in model.network.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_post_processing_is_the_models_own_unless_another_is_given(threshold):
    hu = np.full((6, 16, 16), -150, dtype=np.int16)
    hu[1:5, 2:6, 2:6], hu[2, 12, 12] = 200, 200
    volume = Volume(hu, np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]]))
    plain = threshold(Preprocess(window_hu=WINDOW), 50)
    keeps = Segmenter(
        plain.network, "none", {}, plain.preprocess, plain.labels, postprocess=Postprocess(largest={"tumor": 1})
    )
    assert predict(plain, volume).voxels.sum() == 65
    assert predict(keeps, volume).voxels.sum() == 64
    assert Predictor(keeps, postprocess=Postprocess()).predict(volume).voxels.sum() == 65


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "expected cpu, cuda, cuda:1 or mps, got 'gpu'"),
        ("meta", "got 'meta'"),
        ("cuda:99", "there is no cuda:99 here; PyTorch sees cpu"),
    ],
)
def test_a_device_that_is_not_there(device, words):
    with pytest.raises(InputError, match=words):
        Predictor(segmenter(), device=device)


def test_preprocessing_that_the_network_is_not_made_for():
    model = segmenter()
    other = Segmenter(model.network, "unet", {}, Preprocess(window_hu=WINDOW, neighbours=1), LABELS)
    with pytest.raises(InputError, match=r"takes 1 channel\(s\) in 2D, its preprocessing gives 3 in 2D"):
        Predictor(other)


@pytest.mark.parametrize(
    "options", [{"slice_mm": 1.1}, {"slice_mm": 6.0, "size": (32, 32)}, {"spacing_mm": 1.7}], ids=str
)
def test_no_more_than_a_slab_of_probabilities_is_held(options):
    volume = image(shape=(150, 16, 16))
    geometry = Preprocess(window_hu=WINDOW, **options).geometry(volume)
    canvas, most, plane = Canvas(volume, geometry, 3), 0, geometry.shape[1] * geometry.shape[2]
    for start in range(0, geometry.shape[0], 3):
        count = min(3, geometry.shape[0] - start)
        canvas.paint(torch.rand(count, 3, *geometry.shape[1:]))
        waiting = canvas._waiting
        most = max(most, 0 if waiting is None else waiting.untyped_storage().nbytes() // (3 * 4 * plane))
    per_slab = SLAB * geometry.resampled[0] / geometry.upright[0]
    assert most < 2 * per_slab + 6 < geometry.shape[0]
    assert set(np.unique(canvas.labels.voxels)) == {0, 1, 2}
    assert (canvas.upright != 0).reshape(150, -1).any(1).all()


DOUBTS = {
    "air": (np.array([0, 255, 40]), {}, ["the lowest value is 0", "are these HU?"]),
    "bone": (np.array([-1000, 60, 40]), {}, ["the highest value is 60"]),
    "window": (np.array([-1000, 2000, -900]), {}, ["0 % of the voxels lie within the model's window, -200 to 300 HU"]),
    "spacing": (
        np.array([-1000, 400, 50]),
        {"training_spacing_mm": [[0.8, 1.2], [0.7, 0.9], [0.5, 0.5]]},
        ["slices are 2.5 mm apart, the model was trained on 0.8 to 1.2 mm", "columns are 0.8 mm apart", "on 0.5 mm"],
    ),
    "none": (np.array([-1000, 400, 50]), {"training_spacing_mm": [[2, 3], [0.7, 0.9], [0.8, 0.8]]}, []),
}


@pytest.mark.parametrize("case", DOUBTS)
@pytest.mark.parametrize("axcodes", [AXCODES, "LIA"])
def test_an_image_unlike_those_of_the_training_is_warned_of_with_figures(case, axcodes):
    values, facts, words = DOUBTS[case]
    plain = segmenter()
    model = Segmenter(plain.network, "unet", {}, plain.preprocess, LABELS, facts=facts)
    volume = image(axcodes, (12, 12, 12))
    voxels = np.resize(values, volume.shape)
    voxels[::4, ::4, ::4] = np.resize(values, (3, 3, 3))  # all of them are looked at
    found = Predictor(model).run(volume.like(voxels.astype(np.int16))).warnings
    assert all(any(word in line for line in found) for word in words), found
    assert bool(found) == bool(words)


def test_post_processing_is_saved_with_the_model(tmp_path):
    plain, chosen = segmenter(), Postprocess(largest={"kidney": 2}, smallest_lesion_mm3=9)
    Segmenter(plain.network, "unet", {"width": 2}, plain.preprocess, LABELS, postprocess=chosen).save(tmp_path)
    assert Segmenter.load(tmp_path).postprocess == chosen
    known = json.loads((tmp_path / "model.json").read_text())
    for broken in ({"largest": {"lung": 1}}, {"largest": {"kidney": 0}}, {"biggest": 1}):
        (tmp_path / "model.json").write_text(json.dumps({**known, "postprocess": broken}))
        with pytest.raises(InputError):
            Segmenter.load(tmp_path)
    del known["postprocess"]  # as models were written before there was any
    (tmp_path / "model.json").write_text(json.dumps(known))
    assert not Segmenter.load(tmp_path).postprocess
