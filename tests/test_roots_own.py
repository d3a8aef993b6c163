"""Roots of the user's own: folders, tars and OCI layouts, copied without following anything out of them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.roots import Root, build_root
from cgrace.harness.targets.roots_own import is_own

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="copying a root takes root")

BOOTABLE = {
    "usr/lib/systemd/systemd": b"\x7fELF systemd 219 running in %ssystem mode",
    "usr/bin/dbus-daemon": b"\x7fELF",
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tar(members: dict[str, bytes | str]) -> bytes:
    """An archive: bytes are files, a text is a link's target, a name that ends in "/" a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def blob(folder: Path, data: bytes) -> dict[str, Any]:
    """Put it into a layout; its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (folder / "blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def layout(folder: Path, *layers: bytes) -> Path:
    """An OCI layout with one image."""
    manifest = json.dumps({"layers": [blob(folder, gzip.compress(layer, mtime=0)) for layer in layers]}).encode()
    described = blob(folder, manifest) | {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
    (folder / "index.json").write_text(json.dumps({"manifests": [described]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def built(path: Path) -> Root:
    """The root in the cache."""
    return asyncio.run(build_root(str(path)))


def bootable(folder: Path) -> Path:
    """A folder that passes for a root."""
    for name, content in BOOTABLE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_what_is_a_path() -> None:
    """A name with a slash is a path, one without is a suite's."""
    assert is_own("./root") and is_own("/srv/root.tar") and is_own(".")
    assert not is_own("bookworm")


def test_folder(tmp_path: Path) -> None:
    """A folder is copied as it is, links as links, and once; a change of it makes another root."""
    folder = bootable(tmp_path / "mine")
    (folder / "out").symlink_to("/etc/passwd")
    root = built(folder)
    assert root.note["packages"]["systemd"] == "219"
    assert (root.folder / "root/out").readlink() == Path("/etc/passwd")
    assert built(folder).folder == root.folder
    (folder / "new").write_text("x")
    assert built(folder).folder != root.folder


def test_tar(tmp_path: Path) -> None:
    """A tar's content is unpacked."""
    archive = tmp_path / "root.tar"
    archive.write_bytes(tar({f"./{name}": content for name, content in BOOTABLE.items()}))
    assert (built(archive).folder / "root/usr/bin/dbus-daemon").read_bytes() == b"\x7fELF"


def test_layers(tmp_path: Path) -> None:
    """Layers come over one another, and marks take away what earlier ones brought."""
    first = tar({**BOOTABLE, "etc/a": b"1", "etc/b": b"1", "opt/x/old": b"1"})
    second = tar({"etc/a": b"2", "etc/.wh.b": b"", "opt/x/new": b"2", "opt/x/.wh..wh..opq": b""})
    inner = built(layout(tmp_path / "oci", first, second)).folder / "root"
    assert (inner / "etc/a").read_bytes() == b"2"
    assert not (inner / "etc/b").exists()
    assert [path.name for path in (inner / "opt/x").iterdir()] == ["new"]


@pytest.mark.parametrize("target", ["/", "../../../../../.."])
def test_links_lead_nowhere_outside(tmp_path: Path, target: str) -> None:
    """A link in one layer and a file through it in the next do not reach a file outside the root."""
    outside = tmp_path / "outside"
    through = "door" + str(outside)
    inner = built(layout(tmp_path / "oci", tar({**BOOTABLE, "door": target}), tar({through: b"evil"}))).folder / "root"
    assert not outside.exists()
    assert (inner / str(outside).lstrip("/")).read_bytes() == b"evil"


def test_names_lead_nowhere_outside(tmp_path: Path) -> None:
    """A name with ".." in front is refused, and nothing stays of the try."""
    archive = tmp_path / "root.tar"
    archive.write_bytes(tar({**BOOTABLE, "../evil": b""}))
    with pytest.raises(TargetError, match="cannot be copied"):
        built(archive)
    assert [path.name for path in (tmp_path / "cache/cgrace/roots").iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize(
    ("lacks", "says"), [("usr/lib/systemd/systemd", "without systemd"), ("usr/bin/dbus-daemon", "no D-Bus daemon")]
)
def test_no_root_to_boot(tmp_path: Path, lacks: str, says: str) -> None:
    """A root without systemd or a bus is one clear line, before anything of it is copied."""
    folder = bootable(tmp_path / "mine")
    (folder / lacks).unlink()
    with pytest.raises(TargetError, match=says):
        built(folder)
    assert not (tmp_path / "cache/cgrace/roots").exists()


def test_no_root_at_all(tmp_path: Path) -> None:
    """What is no root is told from what is not there."""
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(TargetError, match="is no root"):
        built(tmp_path / "text")
    with pytest.raises(TargetError, match="there is no"):
        built(tmp_path / "nothing")


def test_damaged_layout(tmp_path: Path) -> None:
    """A layer that is not what its digest says is refused."""
    folder = layout(tmp_path / "oci", tar(dict(BOOTABLE)))
    manifest = json.loads((folder / "index.json").read_text())["manifests"][0]["digest"].removeprefix("sha256:")
    layer = json.loads((folder / "blobs/sha256" / manifest).read_bytes())["layers"][0]["digest"].removeprefix("sha256:")
    (folder / "blobs/sha256" / layer).write_bytes(gzip.compress(tar({"x": b""})))
    with pytest.raises(TargetError, match="damaged"):
        built(folder)
