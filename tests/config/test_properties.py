"""What holds for every configuration, value and name (property-based)."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raygan.config.run import Config
from raygan.config.section import ConfigError, differing_values, flat_values, parse_value, with_values
from raygan.errors import InputError, redacted
from raygan.presets import DENOISER, PAPER_V1
from raygan.search.experiment import NAME
from raygan.storage import Folder

PATHS = sorted({*flat_values(PAPER_V1), *flat_values(DENOISER)})
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**32, 2**64])
VALUES: Any = st.none() | st.booleans() | NUMBERS | st.text() | st.tuples(st.text()) | st.lists(NUMBERS) | st.binary()


@given(config=st.sampled_from([PAPER_V1, DENOISER]), path=st.sampled_from(PATHS) | st.text(), value=VALUES)
@settings(deadline=None, max_examples=1000)
def test_a_value_is_taken_and_kept_or_refused(config: Config, path: str, value: object) -> None:
    try:
        changed = with_values(config, {path: value})
    except ConfigError:
        return
    plain = json.loads(json.dumps(changed.to_json()))
    assert Config.from_json(plain) == changed
    assert differing_values(plain, changed.to_json()) == []


@given(path=st.sampled_from(PATHS), text=st.text() | NUMBERS.map(str) | st.just("9" * 5000))
@settings(deadline=None, max_examples=1000)
def test_a_text_is_parsed_or_refused(path: str, text: str) -> None:
    with contextlib.suppress(ConfigError):
        with_values(PAPER_V1, {path: parse_value(PAPER_V1, path, text)})


JSON: Any = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(path=st.sampled_from(PATHS), value=JSON)
@settings(deadline=None, max_examples=1000)
def test_a_garbled_file_is_read_or_refused(path: str, value: object) -> None:
    plain: Any = PAPER_V1.to_json()
    *parents, leaf = path.split("/")
    owner = plain
    for parent in parents:
        # The noises are a list.
        owner = owner.get(parent) if isinstance(owner, dict) else None
        if not isinstance(owner, dict):
            return
    owner[leaf] = value
    with contextlib.suppress(ConfigError):
        assert Config.from_json(plain).to_json() is not None


@given(st.text())
@settings(deadline=None, max_examples=1000)
def test_a_location_is_a_folder_or_refused(text: str) -> None:
    try:
        folder = Folder(text)
    except InputError:
        return
    assert folder.child("a").location == folder.location.rstrip("/") + "/a" or "?" in text


@given(st.text())
def test_names_of_studies_stay_inside_their_storage(text: str) -> None:
    if NAME.fullmatch(text):
        child = Folder("/storage").child(text).path
        assert child == f"/storage/{text}"


@given(st.text(alphabet="abc0:/@.?&="), st.text(alphabet="xyz0", min_size=3))
def test_no_password_of_a_url_is_shown(host: str, password: str) -> None:
    assert f":{password}@" not in redacted(f"postgresql://user:{password}@{host}")
