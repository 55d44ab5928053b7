"""What an audit tells: who is in each stratum, how it does, how it can be told, and its page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from loraland.errors import StorageCorrupt
from loraland.storage import Storage
from loraland.strata.figures import grey_image, strata_map
from loraland.strata.page import render_audit
from loraland.strata.picture import margins, picture
from loraland.strata.record import Audit
from loraland.strata.shelf import get_audit, lines, retrained
from tests.strata import fabricated
from tests.strata.fabricated import GROUPS, HOSTILE, fabricate_audit, features, splits


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


@pytest.fixture
def audit(storage: Storage) -> Audit:
    return fabricate_audit(storage)


def test_the_worst_stratum_is_the_group_that_fails_and_no_label_of_it_was_used(
    audit: Audit,
) -> None:
    worst = audit.strata[0]
    assert worst.number == audit.worst and worst.label == "land"
    assert worst.test is not None and worst.test.high < 0.3
    assert worst.rest is not None and worst.rest.low > 0.7
    best = worst.overlaps[0]
    assert best.subclass == GROUPS[0] and best.precision == best.recall == 1.0
    assert best.prevalence == pytest.approx(12 / 212)
    assert worst.words[0].word == "lake" and worst.words[0].rest == 0.0
    assert len(worst.examples) == 8 and {one.label for one in worst.examples} == {"land"}


def test_every_held_out_example_is_in_one_stratum_and_scores_add_up(audit: Audit) -> None:
    assert sum(one.sizes.test for one in audit.strata) == audit.sizes.test == 200
    right = sum(round(one.test.mean * one.test.items) for one in audit.strata if one.test)
    assert right == round(audit.overall.mean * 200)
    groups = {group.name: group for group in audit.known}
    assert [group.train for group in groups.values()] == [12, 200, 210, 14]
    assert all(group.test and group.test.items == 50 for group in groups.values())


def test_the_examples_shown_are_those_nearest_to_the_middle(audit: Audit) -> None:
    # By hand, of the worst stratum: it is the first group, in the space as it is.
    test = splits().test
    points = test.values[:50]
    order = np.argsort(np.linalg.norm(points - np.median(points, axis=0), axis=1))
    numbers = [n % 7 for n in order[:8]]
    shown = [int(re.search(r"number (\d)", one.text or "")[1]) for one in audit.strata[0].examples]  # type: ignore[index]
    assert shown == numbers


def test_margins_are_below_zero_where_answers_are_wrong_and_the_map_shows_them() -> None:
    test = splits().test
    assert ((margins(test) > 0) == test.correct()).all()
    found = picture(test, np.zeros(len(test), np.int64), most=30)
    assert len(found.points) == 30 and found.left_out == 170
    assert all((x > 0) == right for x, _, _, right in found.points)
    svg = str(strata_map(found, 0, "land/1"))
    assert svg.count("<circle") + svg.count("<path") == 30 and 'class="worst' in svg


def test_a_map_of_features_that_do_not_vary_is_flat() -> None:
    one = features("test", (3, 3, 3, 3), 0)
    flat = replace(one, values=np.ones_like(one.values))
    found = picture(flat, np.zeros(12, np.int64))
    assert all(y == 0.0 for _, y, _, _ in found.points)


def test_images_have_mean_pictures_and_no_words(storage: Storage) -> None:
    found = fabricate_audit(storage, images=True)
    for one in found.strata:
        assert one.words == [] and one.mean_image is not None and len(one.mean_image) == 8
        assert all(example.text is None and example.pixels for example in one.examples)
    page = render_audit(found, [])
    assert page.count('class="pixels"') > len(found.strata) and "No word" not in page
    svg = str(grey_image([[0.0, 0.0, 1.0]], "<b>"))
    assert svg.count("<rect") == 2 and "&lt;b&gt;" in svg


def test_the_page_asks_for_nothing_and_markup_of_examples_stays_text(audit: Audit) -> None:
    page = render_audit(audit, [])
    assert "<script" not in page and "onerror" not in page.replace(str(escape(HOSTILE)), "")
    assert str(escape(HOSTILE)) in page
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src &#39;none&#39;" in policy and "script-src" not in policy
    assert not re.findall(r'(?:src|href)="(?!#|data:,)[^"]*"', page)


def test_an_audit_comes_back_with_what_was_trained_after_it(storage: Storage, audit: Audit) -> None:
    assert get_audit(audit.id, storage) == audit
    [erm, george] = retrained(audit.id, storage)
    assert (erm.mode, george.mode) == ("erm", "george")
    assert erm.worst_known is not None and erm.worst_known.mean < 0.3
    assert george.worst_stratum is not None and george.worst_stratum.mean > 0.7
    page = render_audit(audit, [erm, george])
    assert "GEORGE" in page and george.model in page


def test_a_damaged_audit_is_named_and_what_can_be_read_is_listed(
    storage: Storage, audit: Audit
) -> None:
    other = fabricate_audit(storage, images=True)
    storage.write(f"strata/{audit.id}/audit.json", b"{}")
    storage.write(f"strata/{audit.id}/line.json", b"{")
    storage.write(f"strata/{other.id}/trained/x.json", b"[]")
    with pytest.raises(StorageCorrupt, match="is no audit"):
        get_audit(audit.id, storage)
    assert [line.id for line in lines(storage)] == [other.id]
    assert len(retrained(other.id, storage)) == 2


def test_strata_without_held_out_examples_have_no_score_and_are_told(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = splits()
    few = whole.test.take(np.flatnonzero(whole.test.subclasses != 3))
    monkeypatch.setattr(fabricated, "splits", lambda: replace(whole, test=few))
    found = fabricate_audit(storage)
    [empty] = [one for one in found.strata if one.test is None]
    assert (empty.sizes.test, empty.loss, empty.examples) == (0, None, [])
    assert found.strata[-1] is empty and "no held-out example" in found.warnings[-1]
    assert "no held-out item" in render_audit(found, [])
