"""The data sets: what they hold, that it is the same each time, and that what they say is true."""

from __future__ import annotations

import dataclasses
import random
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslkern.data import (
    LOADERS,
    LabelledImages,
    Samples,
    Vocabulary,
    load_bitext,
    load_data,
    load_mnist1d,
    load_photos,
    load_video,
)
from sslkern.data.pairs import NAMES
from sslkern.data.text import MASK, PAD, SPECIALS, UNK, padded, split_words

F32, I64 = torch.float32, torch.int64

SHAPES = {
    "digits": {"images": ((1797, 1, 8, 8), F32), "labels": ((1797,), I64)},
    "photos": {"images": ((2000, 3, 32, 32), F32), "labels": ((2000,), I64)},
    "mnist1d": {"images": ((5000, 1, 40), F32), "labels": ((5000,), I64)},
    "bitext": {"source": ((4000, 16), I64), "target": ((4000, 16), I64)},
    "video": {
        "frames": ((512, 6, 3, 32, 32), F32),
        "positions": ((512, 6, 2, 2), F32),
        "masks": ((512, 6, 32, 32), I64),
        "labels": ((512, 2), I64),
    },
    "pairs": {
        "images": ((1797, 1, 8, 8), F32),
        "tokens": ((1797, 19), I64),
        "labels": ((1797,), I64),
    },
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def loaded(name: str) -> Any:
    return load_data(name)


def tensors(samples: Samples) -> dict[str, Tensor]:
    values = {field.name: getattr(samples, field.name) for field in dataclasses.fields(samples)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_dtypes(name: str) -> None:
    found = {k: (tuple(v.shape), v.dtype) for k, v in tensors(loaded(name)).items()}
    assert found == SHAPES[name]


@pytest.mark.parametrize("name", LOADERS)
def test_two_loads_are_equal_and_no_global_generator_moves(name: str) -> None:
    first = loaded(name)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    second = load_data(name)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    for key, value in tensors(first).items():
        assert torch.equal(value, tensors(second)[key]), key


@pytest.mark.parametrize("name", LOADERS)
def test_rows_stay_together_when_taken_split_and_cast(name: str) -> None:
    samples = loaded(name).take(torch.arange(101))
    assert len(samples) == 101
    train, test = samples.split_half(generator())
    assert (len(train), len(test)) == (50, 51)
    order = torch.randperm(101, generator=generator())
    for key, value in tensors(samples).items():
        assert torch.equal(torch.cat([tensors(train)[key], tensors(test)[key]]), value[order])
        cast = tensors(samples.to(torch.float64))[key].dtype
        assert cast == (torch.float64 if value.is_floating_point() else torch.int64)


@pytest.mark.parametrize("name", ["digits", "photos", "mnist1d"])
def test_every_class_is_there(name: str) -> None:
    data: LabelledImages = loaded(name)
    assert torch.equal(data.labels.unique(), torch.arange(10))
    assert len(set(data.classes)) == 10


@pytest.mark.parametrize("key", ["digits.images", "photos.images", "video.frames", "pairs.images"])
def test_pixels_are_from_0_to_1(key: str) -> None:
    name, field = key.split(".")
    pixels = getattr(loaded(name), field)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.std() > 0.1


def test_unknown_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of digits, photos, .*, got 'imagenet'"):
        load_data("imagenet")


@pytest.mark.parametrize(
    ("name", "library"),
    [("digits", "sklearn"), ("photos", "skimage"), ("mnist1d", "mnist1d"), ("bitext", "babel")],
)
def test_missing_library_is_named_with_the_remedy(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    remedy = rf"^{library}.* does not import .* {name} .*pip install 'sslkern\[train\]'$"
    with pytest.raises(ImportError, match=remedy):
        load_data(name)


# --- photos and signals ---------------------------------------------------------------------------


def test_photos_follow_size_number_and_seed() -> None:
    small = load_photos(size=24, crops=30)
    assert small.images.shape == (30, 3, 24, 24)
    assert small.labels.tolist() == [*range(10)] * 3
    assert not torch.equal(small.images, load_photos(size=24, crops=30, seed=1).images)


def test_photo_is_told_from_the_others_by_its_mean_color() -> None:
    """Which says that labels and crops belong together: chance is 0.1."""
    photos = loaded("photos")
    color = photos.images.mean((2, 3))
    centre = torch.stack([color[photos.labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(color, centre).argmin(1)
    assert (nearest == photos.labels).double().mean() > 0.4


def test_signals_are_standardised_and_balanced() -> None:
    signals = loaded("mnist1d")
    assert signals.images.mean().item() == pytest.approx(0, abs=1e-5)
    assert signals.images.std().item() == pytest.approx(1, abs=1e-4)
    assert signals.labels.bincount().tolist() == [500] * 10
    assert len(load_mnist1d(samples=50)) == 50


# --- text -----------------------------------------------------------------------------------------


def test_text_is_rows_of_words_of_the_vocabulary() -> None:
    text = loaded("text")
    assert text.tokens.shape == (len(text), 32)
    assert text.tokens.dtype == text.document.dtype == text.position.dtype == torch.int64
    assert len(text) > 2000
    assert len(text.vocabulary) == len(set(text.vocabulary.words)) == 2000
    counts = text.tokens.flatten().bincount(minlength=2000)
    assert torch.equal(counts, text.vocabulary.counts)
    assert counts[[PAD, *range(UNK + 1, MASK + 1)]].tolist() == [0] * 4
    assert counts[UNK] < 0.03 * counts.sum()
    assert counts[len(SPECIALS) :].diff().max() <= 0  # the most frequent first


def test_text_survives_decoding() -> None:
    text = loaded("text")
    known = text.tokens[(text.tokens != UNK).all(1)][:100]
    for tokens in known:
        line = " ".join(text.vocabulary.decode(tokens))
        assert torch.equal(text.vocabulary.encode(split_words(line)), tokens)


def test_rows_of_a_document_are_in_order_without_gaps() -> None:
    text = loaded("text")
    for document in range(int(text.document.max()) + 1):
        position = text.position[text.document == document]
        assert torch.equal(position, torch.arange(len(position)))
    assert text.document.diff().min() >= 0


def test_consecutive_rows_are_found_again_in_a_half() -> None:
    half, _ = loaded("text").split_half(generator())
    first, second = half.consecutive().unbind(1)
    assert torch.equal(half.document[first], half.document[second])
    assert torch.equal(half.position[first] + 1, half.position[second])
    places = set(zip(half.document.tolist(), half.position.tolist(), strict=True))
    assert len(first) == sum((document, position + 1) in places for document, position in places)


def test_vocabulary_keeps_the_most_frequent_words() -> None:
    vocabulary = Vocabulary.of(["b", "a", "c", "a", "b", "d"], size=7)
    assert vocabulary.words == (*SPECIALS, "a", "b")
    assert vocabulary.counts.tolist() == [0, 2, 0, 0, 0, 2, 2]
    assert vocabulary.encode(["b", "c", "[MASK]"]).tolist() == [6, UNK, MASK]
    assert vocabulary.encode([]).dtype == torch.int64
    assert vocabulary.decode(torch.tensor([5, PAD, MASK])) == ["a", "[MASK]"]


# --- two languages, and captions ------------------------------------------------------------------


@pytest.mark.parametrize("key", ["bitext.source", "bitext.target", "pairs.tokens"])
def test_padding_is_only_at_the_end(key: str) -> None:
    name, field = key.split(".")
    words = getattr(loaded(name), field) != PAD
    assert words.any(1).all()
    assert not (words[:, 1:] & ~words[:, :-1]).any()


def test_padded_rows_are_as_long_as_the_longest_or_longer() -> None:
    rows = [torch.tensor([5]), torch.tensor([6, 7])]
    assert padded(rows).tolist() == [[5, 0], [6, 7]]
    assert padded(rows, 1).shape == (2, 2)
    assert padded(rows, 4).shape == (2, 4)


def test_translations_have_the_same_year_and_are_all_different() -> None:
    bitext = loaded("bitext")
    assert len(bitext.source.unique(dim=0)) == len(bitext.target.unique(dim=0)) == len(bitext)
    assert UNK not in bitext.source
    assert UNK not in bitext.target
    for source, target in zip(bitext.source, bitext.target, strict=True):
        english, german = bitext.vocabulary.decode(source), bitext.vocabulary.decode(target)
        assert english[-1] == german[-1]
        assert "1990" <= english[-1] <= "2029"


def test_months_are_translated() -> None:
    bitext = loaded("bitext")
    march, maerz = bitext.vocabulary.encode(["march", "märz"])
    assert UNK not in (march, maerz)
    with_march, with_maerz = (bitext.source == march).any(1), (bitext.target == maerz).any(1)
    assert with_march.sum() > 100
    assert torch.equal(with_march, with_maerz)


def test_bitext_takes_other_languages() -> None:
    bitext = load_bitext(pairs=20, languages=("fr", "es"))
    assert bitext.languages == ("fr", "es")
    assert len(bitext) == 20


def test_caption_names_the_digit_and_no_other() -> None:
    pairs = loaded("pairs")
    captions = ["".join(pairs.vocabulary.decode(tokens)) for tokens in pairs.tokens]
    for caption, label in zip(captions, pairs.labels.tolist(), strict=True):
        assert [name for name in NAMES if name in caption.split()] == [NAMES[label]]
    assert len(set(captions)) == 60  # six templates


def test_captions_of_the_classes() -> None:
    pairs = loaded("pairs")
    captions = pairs.captions("the digit {}")
    assert captions.shape == (10, pairs.tokens.shape[1])
    assert "".join(pairs.vocabulary.decode(captions[4])) == "the digit four"
    # Class by class, a caption of the same template is among the training captions.
    for label, caption in enumerate(captions):
        assert (pairs.tokens[pairs.labels == label] == caption).all(1).any()


# --- video ----------------------------------------------------------------------------------------


def test_mask_is_where_the_frame_is_not_the_background() -> None:
    video = loaded("video").take(torch.arange(64))
    shown = video.masks > 0
    # What most frames show is the background: the digits do not stay.
    background = video.frames.median(1, keepdim=True).values
    covered = shown.sum(1, keepdim=True) >= 3
    still = ~shown & ~covered
    difference = (video.frames - background).abs().amax(2)
    assert difference[still].max() == 0
    assert difference[shown & ~covered].min() > 0.3


def test_digit_has_one_hue_and_no_other_digit_has_it() -> None:
    video = loaded("video").take(torch.arange(64))
    for frames, masks in zip(video.frames, video.masks, strict=True):
        pixels = frames.movedim(1, -1)
        hues = []
        for k in (1, 2):
            colors = pixels[masks == k]
            pure = colors / colors.amax(1, keepdim=True)
            torch.testing.assert_close(pure, pure[:1].expand_as(pure))
            hues.append(pure[0])
        assert (hues[0] - hues[1]).abs().max() > 0.5


def test_position_is_in_the_middle_of_the_mask() -> None:
    video = loaded("video")
    # The last digit is in front of all others, so that its mask is whole.
    mask = (video.masks == 2).double()
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    index = torch.stack([rows, columns], -1).double()
    centroid = (mask[..., None] * index).sum((2, 3)) / mask.sum((2, 3))[..., None]
    offset = centroid - video.positions[:, :, 1].double()
    assert offset.abs().max() < 2
    assert offset.abs().mean() < 0.5
    # A digit's own middle is wherever it is, but the same in every frame: the positions are exact.
    torch.testing.assert_close(offset, offset[:, :1].expand_as(offset))


def test_digits_move_steadily_and_bounce_within_the_frame() -> None:
    positions = load_video(clips=64, frames=30).positions
    assert positions.min() >= 3.5
    assert positions.max() <= 31 - 3.5
    speed = positions.diff(dim=1).abs()
    assert speed.max() == 2
    fastest = speed.amax(1, keepdim=True)
    assert (fastest.amax(-1) > 0).all()
    # At a border part of the step leads back, and nowhere else.
    slower = speed < fastest
    near = torch.minimum(positions[:, :-1], positions[:, 1:]) < 5.5
    near |= torch.maximum(positions[:, :-1], positions[:, 1:]) > 25.5
    assert not (slower & ~near).any()


def test_video_follows_its_sizes_and_seed() -> None:
    video = load_video(clips=3, frames=4, size=24, digits=3)
    assert video.frames.shape == (3, 4, 3, 24, 24)
    assert video.positions.shape == (3, 4, 3, 2)
    assert video.masks.unique().tolist() == [0, 1, 2, 3]
    other = load_video(clips=3, frames=4, size=24, digits=3, seed=1)
    assert not torch.equal(video.frames, other.frames)


def test_labels_are_those_of_the_digits_that_are_shown() -> None:
    """The digit in front, cut out of a frame, is one of the digits that have its label."""
    video, digits = loaded("video").take(torch.arange(32)), loaded("digits")
    for clip in range(32):
        row, column = (video.positions[clip, 0, 1] - 3.5).int().tolist()
        mask = video.masks[clip, 0, row : row + 8, column : column + 8] == 2
        same = ((digits.images[:, 0] > 0.3) == mask).all((1, 2))
        assert video.labels[clip, 1] in digits.labels[same]
