"""Scenarios on real systemds: settings, what was recorded there, and how targets are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import handmade
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgrace.harness.commands.common import baselines_folder, scenarios_folder
from cgrace.harness.drivers.catalogue import find
from cgrace.harness.errors import CgraceError, UsageError
from cgrace.harness.scenario.model import Setting
from cgrace.harness.scenario.parse import load, load_tree
from cgrace.harness.scenario.real import placed_on, settings_on
from cgrace.harness.scenario.recorded import Recorded, Row, file_of, read, steady, story_of, write
from cgrace.harness.scenario.rules import Rule, chance, read_rules, read_unsteady, why
from cgrace.harness.targets.registry import parse_target, systemd_number
from cgrace.harness.verdict import Invariant

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1, max_size=12)
ROWS = st.builds(
    Row,
    violated=st.lists(st.tuples(st.sampled_from(list(Invariant)), WORDS), max_size=2).map(tuple),
    failed=st.lists(st.tuples(WORDS, WORDS), max_size=2).map(tuple),
)
TABLES = st.dictionaries(st.tuples(WORDS, WORDS), ROWS, max_size=4)


@given(TABLES)
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[str, str], Row]
) -> None:
    """Whatever names and texts are in it."""
    path = tmp_path_factory.mktemp("recorded") / "story.json"
    recorded = Recorded(story="1780", target="container:x", layout="v1", systemd="252.39", rows=rows)
    write(path, recorded)
    assert read(path) == recorded


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "rows": [{"scenario": 1}]}', "\0"])
def test_what_is_no_record_is_one_clear_message(tmp_path: Path, text: str) -> None:
    """It names the file; none at all is no error."""
    path = tmp_path / "story.json"
    assert read(path) is None
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CgraceError, match="baseline"):
        read(path)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("Delegation not available for unit type", "Delegation not available for unit type"),
        ("read unix @->/tmp/cgrace-801-16-c1/m2.bus: EOF", "read unix"),
        ("timeout waiting for 30s of job", "timeout waiting for"),
        ("42", ""),
    ],
)
def test_of_an_error_the_part_without_numbers_is_kept(error: str, kept: str) -> None:
    """Pids, times and paths of a run are others the next time."""
    assert steady(error) == kept
    assert kept in error


def test_each_layout_runs_once_with_the_cut_that_systemd_takes() -> None:
    """From 238 on it refuses Delegate on slices: what is about slices takes the cuts of rc6."""
    folder = scenarios_folder() / "runc_1780"
    slices, scopes = load(folder / "late_job_slice.toml"), load(folder / "late_job_delegated_scope.toml")
    assert settings_on(slices, 237) == (Setting(profile="237", layout="v1", rung="rc5"),)
    assert settings_on(slices, 238) == (Setting(profile="238", layout="v1", rung="rc6"),)
    assert settings_on(scopes, 257) == (Setting(profile="257", layout="v1", rung="rc5"),)
    both = load(scenarios_folder() / "primers" / "delay.toml")
    assert [setting.layout for setting in settings_on(both, 257)] == ["v1", "v2"]


def test_a_scenario_runs_on_the_layout_that_a_machine_has_unless_it_names_what_is_not_there() -> None:
    """A hierarchy of v1 is not on v2, nor the other way round; what the file says comes first."""

    def layouts(name: str, *had: str) -> list[str]:
        return [one.layout for one in settings_on(load(scenarios_folder() / name), 262, had)]

    assert layouts("runc_1780/late_job_slice.toml", "v2") == ["v2"]
    assert layouts("runc_1780/late_job_slice.toml", "v1", "v2") == ["v1"]
    assert layouts("runc_1780/enoent_between_mkdir_and_write.toml", "v2") == ["v1"]
    assert layouts("corpus/cgroup_deleted_in_the_wait.toml", "v1") == ["v2"]
    assert layouts("primers/delay.toml", "v2") == ["v2"]


def test_what_was_recorded_is_what_is_expected() -> None:
    """Of every driver that it is placed for; without a record the nearest setting of the file stands."""
    scenario = load(scenarios_folder() / "runc_1780" / "late_job_slice.toml")
    (setting,) = settings_on(scenario, 252)
    row = Row(violated=((Invariant.NO_DEADLOCK, "first"),), failed=(("first", "no"),))
    (expect,) = placed_on(scenario, setting, row, generation="today").expected("source", setting)
    assert (expect.violated, expect.failed) == (row.violated, row.failed)
    assert placed_on(scenario, setting, Row(), generation="async").expected("async", setting) == ()
    near = placed_on(scenario, setting, None, generation="async").expected("async", setting)
    assert [pair for e in near for pair in e.violated] == [(Invariant.NO_LOST_CGROUPS, "first")]
    assert placed_on(scenario, setting, None, generation="today").expected("today", setting) == ()
    (other,) = settings_on(scenario, 262, ("v2",))
    assert placed_on(scenario, other, None, generation="today").expected("today", other) == ()


def test_every_record_that_comes_with_cgrace_is_of_scenarios_that_are_there() -> None:
    """With names and steps that exist, in the file that its own head says."""
    scenarios = {s.name: s for folder in scenarios_folder().iterdir() if folder.is_dir() for s in load_tree(folder)}
    files = sorted(baselines_folder().glob("story-*.json"))
    assert files
    for path in files:
        recorded = read(path)
        assert recorded is not None
        slug = recorded.target.replace(":", "-")
        assert path == file_of(baselines_folder(), recorded.story, slug, recorded.layout)
        assert json.loads(path.read_text())["rows"]
        for (name, driver), row in recorded.rows.items():
            assert story_of(scenarios[name]) == recorded.story, name
            steps = {step.id for step in scenarios[name].steps}
            assert {step for step, _ in row.failed} <= steps, (name, driver)


def test_a_file_outside_of_a_story_has_none() -> None:
    """So it has no record."""
    assert story_of(handmade.scenario()) == handmade.scenario().name.rpartition("/")[0].rpartition("_")[2]


@pytest.mark.parametrize(
    ("text", "base", "layout", "slug"),
    [
        ("fake", "fake", "", "fake"),
        ("container:bookworm", "container:bookworm", "", "container-bookworm"),
        ("container:bookworm:v2", "container:bookworm", "v2", "container-bookworm"),
    ],
)
def test_a_target_is_called_in_one_way(text: str, base: str, layout: str, slug: str) -> None:
    """A kind, a place, and perhaps a layout."""
    name = parse_target(text)
    assert (name.text, name.base, name.layout, name.slug) == (text, base, layout, slug)
    assert name.is_real == (text != "fake")


@pytest.mark.parametrize("text", ["", "moon", "fake:v1", "container", "container:", "container:v1", "Container:x"])
def test_what_is_no_target_is_a_usage_error(text: str) -> None:
    """With what there is."""
    with pytest.raises(UsageError) as told:
        parse_target(text)
    assert "container:bookworm" in told.value.hint


@pytest.mark.parametrize(
    ("version", "number"),
    [("252.39-1~deb12u2", 252), ("systemd 208", 208), ("v257", 257), ("247.3-7+deb11u5", 247), ("262.1-1", 262)],
)
def test_the_number_of_a_systemd_is_in_what_it_calls_itself(version: str, number: int) -> None:
    """Each version does it in its own way (systemd-behaviour: Manager.Version)."""
    assert systemd_number(version) == number


def test_each_rule_is_shown_by_a_probe() -> None:
    """Its recorded answers are the same in all versions of the range, and other ones where the rule does not hold."""
    names = {s.name for folder in scenarios_folder().iterdir() if folder.is_dir() for s in load_tree(folder)}
    files = [*sorted(baselines_folder().glob("2*-v[12].json")), baselines_folder() / "262-v2-vm.json"]
    recorded = [json.loads(path.read_bytes()) for path in files]
    rules = read_rules(baselines_folder())

    def holds(rule: Rule, data: dict[str, Any]) -> bool:
        return rule.covers(data["version"]) and rule.layout in ("", data["layout"])

    for rule in rules:
        assert set(rule.scenarios) <= names
        same = [other for other in rules if other.says == rule.says]
        inside = [data["answers"][rule.probe] for data in recorded if holds(rule, data)]
        outside = [data["answers"][rule.probe] for data in recorded if not any(holds(other, data) for other in same)]
        assert inside, rule
        assert all(answer == inside[0] for answer in inside), rule
        assert all(answer != inside[0] for answer in outside), rule


def test_what_comes_out_by_chance_is_not_recorded(tmp_path: Path) -> None:
    """It is known by scenario and generation, with the reason, and no record holds anything of it."""
    cases = read_unsteady(baselines_folder())
    names = {s.name for folder in scenarios_folder().iterdir() if folder.is_dir() for s in load_tree(folder)}
    assert cases and all(set(one.scenarios) <= names for one in cases)
    assert "by chance" in chance(cases, "corpus/controller_deleted_in_the_wait", "async", "v2", "vm")
    assert not chance(cases, "corpus/controller_deleted_in_the_wait", "today", "v1", "container")
    assert "by chance" in chance(cases, "corpus/destroy_twice", "no-limit", "v1", "container")
    assert not chance(cases, "corpus/destroy_twice", "no-limit", "v2", "container")
    assert "by chance" in chance(cases, "corpus/two_stops_one_job", "checked", "v2", "vm")
    assert not chance(cases, "corpus/two_stops_one_job", "checked", "v2", "container")
    for path in baselines_folder().glob("story-*.json"):
        recorded = read(path)
        assert recorded is not None
        rows = ((name, find(driver).generation) for name, driver in recorded.rows)
        assert not [row for row in rows if chance(cases, *row, recorded.layout, recorded.target.partition(":")[0])]
    assert read_unsteady(tmp_path) == ()
    (tmp_path / "rules.toml").write_text("[[unsteady]]\n", encoding="utf-8")
    with pytest.raises(CgraceError, match="no list of unsteady"):
        read_unsteady(tmp_path)


def test_a_rule_explains_its_rows_and_no_others() -> None:
    """By scenario, driver, version and layout."""
    rules = read_rules(baselines_folder())
    scope = "runc_1780/late_job_delegated_scope"
    assert "Delegate covers" in why(rules, scope, "async", systemd=247, layout="v1")
    assert not why(rules, scope, "async", systemd=257, layout="v1")
    assert "one cgroup on v2" in why(rules, scope, "async", systemd=247, layout="v2")
    assert "refuse" in why(rules, "runc_1780/late_job_slice", "rc4", systemd=262, layout="v2")
    assert "refuse" not in why(rules, "runc_1780/late_job_slice", "today", systemd=262, layout="v2")
    assert not why(rules, "runc_1780/late_signal_lock", "today", systemd=262, layout="v2")
