"""Bad models, packages, arrays, options and targets: an exit code and two lines each, and no file left."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier.cli.main import run
from espalier.package import Package
from espalier.package.archive import METADATA, MODULE
from espalier.package.metadata import TargetInfo

pytestmark = pytest.mark.compile

# arguments, exit code, a piece of the message
Case = tuple[str, int, str]

OPTIONS: list[Case] = [
    ("", 2, "no verb is given"),
    ("complie m.onnx", 2, "unknown verb 'complie'"),
    ("--jsno", 2, "has no option '--jsno'"),
    ("run", 2, "missing argument 'PKG.tar'"),
    ("run good.tar more.tar", 2, "unexpected extra argument"),
    ("run good.tar --repaet 3", 2, "has no option '--repaet'"),
    ("run good.tar --repeat", 2, "requires an argument"),
    ("run good.tar --repeat 0", 2, "--repeat: got '0', expected a whole number from 1"),
    ("run good.tar --number many", 2, "--number: got 'many'"),
    ("run good.tar --seed -1", 2, "--seed: got '-1'"),
    ("run good.tar --fill-mode randm", 2, "--fill-mode: unknown value 'randm'"),
    ("run good.tar --device gpu", 2, "--device: unknown value 'gpu'"),
    ("run good.tar --threads 0", 2, "--threads: got '0'"),
    ("run good.tar --threads 1e3", 2, "--threads: got '1e3'"),
    ("run good.tar -i good.npz --fill-mode ones", 2, "-i and --fill-mode exclude each other"),
    ("run good.tar -i good.npz --input-shapes x:[1,8]", 2, "-i and --input-shapes exclude each other"),
    ("run good.tar --input-shapes x=[1,8]", 2, "--input-shapes: cannot read 'x=[1,8]'"),
    ("run good.tar --input-shapes y:[1,8]", 2, "no input 'y'"),
    ("run good.tar --input-shapes x:[9,8]", 2, "batch is 9, expected 1 to 8"),
    ("run good.tar -o folder", 2, "output folder is a folder"),
    ("run good.tar -o absent/out.npz", 2, "its folder does not exist"),
    ("run good.tar -o /dev/null", 2, "is no regular file"),
    ("run good.tar -o good.tar", 2, "output good.tar would overwrite the input good.tar"),
    ("run good.tar -i good.npz -o ./good.npz", 2, "would overwrite the input good.npz"),
    ("compile good.onnx -o good.onnx", 2, "would overwrite the input good.onnx"),
    ("run good.tar -o /proc/out.npz", 2, "output /proc/out.npz"),
    ("compile good.onnx -o folder", 2, "output folder is a folder"),
    ("compile good.onnx -o absent/out.tar", 2, "its folder does not exist"),
    ("compile good.onnx -o out.tar --dtype int9", 2, "--dtype: unknown value 'int9'"),
    ("compile good.onnx -o out.tar --dump-code asmm", 2, "--dump-code: unknown value 'asmm'"),
    ("compile good.onnx -o out.tar --dump-code ll --dump-dir absent", 2, "--dump-dir absent is no folder"),
    ("compile good.onnx -o out.tar --pass-config x", 2, "expected key=value"),
    ("compile good.onnx -o out.tar --pass-config x=1 --pass-config x=2", 2, "'x' is given twice"),
    ("compile good.onnx -o out.tar --pass-config tirx.nonsense=1", 2, "no setting 'tirx.nonsense'"),
    ("compile good.onnx -o out.tar --disabled-pass fuse-lienar", 2, "no pass 'fuse-lienar'"),
    ("compile good.onnx -o out.tar --disabled-pass lower", 2, "'lower' cannot be left out"),
    ("compile good.onnx -o out.tar --print-ir-before nothing", 2, "no pass 'nothing'"),
    ("compile good.onnx -o out.tar --print-ir-after nothing", 2, "no pass 'nothing'"),
    ("compile good.onnx -o out.tar --input-shapes x:[1", 2, "--input-shapes: cannot read 'x:[1'"),
    ("compile good.onnx -o out.tar --input-shapes x:[0,8]", 2, "dimension '0' of 'x'"),
    ("compile good.onnx -o out.tar --input-shapes z:[1,8]", 2, "'z'"),
    ("compile good.onnx -o out.tar --input-shapes x:[1,8,1]", 2, "'x'"),
    ("compile good.onnx -o out.tar --input-shapes x:[1,9]", 2, "'x'"),
    ("compile good.onnx -o out.tar --max-shape x:[8,7]", 2, "'x'"),
    ("compile good.onnx -o out.tar --max-shape z:[8,8]", 2, "'z'"),
    ("compile good.onnx -o out.tar --max-shape x:[8,8,8]", 2, "'x'"),
    ("devices znver9", 2, "unknown device 'znver9'"),
    ("devices znver", 2, "ambiguous"),
]

TARGETS: list[Case] = [
    ("compile good.onnx -o out.tar --target cascadelak", 2, "unknown target 'cascadelak'"),
    ("compile good.onnx -o out.tar --target |llvm -mcpu=zenver1|", 2, "unknown mcpu 'zenver1'"),
    ("compile good.onnx -o out.tar --target |llvm -mcup=znver1|", 2, "no option 'mcup'"),
    ("compile good.onnx -o out.tar --target |llvm -num-cores=none|", 2, "num-cores"),
    ('compile good.onnx -o out.tar --target {"kind":}', 2, "the target is not JSON"),
    ('compile good.onnx -o out.tar --target {"mcpu":"znver1"}', 2, "has no target kind"),
    ("compile good.onnx -o out.tar --target absent.json", 2, "absent.json: No such file"),
    ("compile good.onnx -o out.tar --target cuda", 5, "'cuda' (NVIDIA GPUs) has no back end"),
    ("compile good.onnx -o out.tar --target |llvm -mtriple=aarch64-linux-gnu|", 5, "aarch64-linux-gnu"),
]

PACKAGES: list[Case] = [
    ("run absent.tar -o out.npz", 4, "package absent.tar: No such file"),
    ("run folder -o out.npz", 4, "package folder is a folder"),
    ("run /dev/zero -o out.npz", 4, "is no regular file"),
    ("run empty -o out.npz", 4, "no tar archive"),
    ("run text -o out.npz", 4, "no tar archive"),
    ("run good.onnx -o out.npz", 4, "no tar archive"),
    ("run zipped.tar -o out.npz", 4, "is compressed (gzip)"),
    ("run good.npz -o out.npz", 4, "is compressed (zip)"),
    ("run escape.tar -o out.npz", 4, "unknown member '../../escaped'"),
    ("run link.tar -o out.npz", 4, "is no regular file"),
    ("run twice.tar -o out.npz", 4, "two members 'mod.so'"),
    ("run half.tar -o out.npz", 4, "cut off"),
    ("run flipped.tar -o out.npz", 4, "digest of 'mod.so'"),
    ("run bare.tar -o out.npz", 4, "no member 'metadata.json'"),
    ("run newer.tar -o out.npz", 4, "format version 2, expected 1"),
    ("run odd.tar -o out.npz", 4, "metadata.json, inputs.0.shape"),
    ("run nolib.tar -o out.npz", 4, "mod.so cannot be loaded"),
    ("run arm.tar -o out.npz", 5, "it is for aarch64 and this machine is x86_64"),
    ("run future.tar -o out.npz", 5, "lacks avx9000"),
]

ARRAYS: list[Case] = [
    ("run good.tar -o out.npz -i absent.npz", 4, "npz file absent.npz: No such file"),
    ("run good.tar -o out.npz -i folder", 4, "npz file folder is a folder"),
    ("run good.tar -o out.npz -i text", 4, "is damaged or no npz"),
    ("run good.tar -o out.npz -i bare.npy", 4, "is damaged or no npz"),
    ("run good.tar -o out.npz -i half.npz", 4, "is damaged or no npz"),
    ("run good.tar -o out.npz -i objects.npz", 4, "'x' holds Python objects (pickle)"),
    ("run good.tar -o out.npz -i strings.npz", 4, "'x' holds <U1, expected numbers"),
    ("run good.tar -o out.npz -i empty.npz", 4, "input 'x' [batch, 8] float32 is missing"),
    ("run good.tar -o out.npz -i missing.npz", 4, "input 'ids' [batch, length] int64 is missing"),
    ("run good.tar -o out.npz -i extra.npz", 4, "input 'more' is none of the package's"),
    ("run good.tar -o out.npz -i misnamed.npz", 4, "input 'idz' is none of the package's"),
    ("run good.tar -o out.npz -i rank.npz", 4, "input 'x' [16] has rank 1"),
    ("run good.tar -o out.npz -i width.npz", 4, "dimension 1: expected 8, got 9"),
    ("run good.tar -o out.npz -i batch.npz", 4, "batch is 9, expected 1 to 8"),
    ("run good.tar -o out.npz -i none.npz", 4, "batch is 0, expected 1 to 8"),
    ("run good.tar -o out.npz -i uneven.npz", 4, "batch is 3, but 2 in input 'x'"),
    ("run good.tar -o out.npz -i lossy.npz", 4, "'ids' is float64, and casting it to int64 could lose"),
    ("run good.tar -o out.npz -i whole.npz", 4, "'x' is int64, and casting it to float32 could lose"),
]

MODELS: list[Case] = [
    ("inspect absent.onnx", 3, "absent.onnx"),
    ("inspect folder", 3, "folder"),
    ("inspect /dev/zero", 3, "/dev/zero"),
    ("inspect empty", 3, "empty"),
    ("inspect text", 3, "text"),
    ("inspect good.tar", 3, "good.tar"),
    ("inspect half.onnx", 3, "half.onnx"),
    ("inspect nan.onnx", 3, "w"),
    ("inspect inf.onnx", 3, "w"),
    ("inspect short.onnx", 3, "w"),
    ("inspect huge.onnx", 3, "w"),
    ("inspect external.onnx", 3, "w"),
    ("inspect escape.onnx", 3, "w"),
    ("inspect absolute.onnx", 3, "w"),
    ("inspect noopset.onnx", 3, "opset"),
    ("inspect opset6.onnx", 3, "6"),
    ("inspect opset999.onnx", 3, "999"),
    ("compile absent.onnx -o out.tar", 3, "absent.onnx"),
    ("compile folder -o out.tar", 3, "folder"),
    ("compile text -o out.tar", 3, "text"),
    ("compile nan.onnx -o out.tar", 3, "w"),
    ("compile unknown.onnx -o out.tar", 3, "Frobnicate"),
    ("compile domain.onnx -o out.tar", 3, "com.example"),
    ("compile undefined.onnx -o out.tar", 3, "ghost"),
    ("compile cycle.onnx -o out.tar", 3, ""),
    ("compile mismatch.onnx -o out.tar", 3, ""),
    ("compile loop.onnx -o out.tar", 3, "Loop"),
    ("compile strings.onnx -o out.tar", 3, "no tensor of numbers"),
    ("compile nooutput.onnx -o out.tar", 3, "output"),
    ("compile twice.onnx -o out.tar", 3, "h"),
]

CASES = [*OPTIONS, *TARGETS, *PACKAGES, *ARRAYS, *MODELS]


@pytest.fixture(scope="module")
def place(tiny_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the cases name."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "text").write_text("this is a text " * 100)
    tiny_package.save(folder / "good.tar")
    _packages(folder, tiny_package)
    _arrays(folder)
    _models(folder)
    return folder


def _packages(folder: Path, good: Package) -> None:
    members = [(METADATA, good.metadata.to_bytes()), (MODULE, good.module)]

    def tar(name: str, entries: list[tuple[str, bytes]], mode: str = "w", **info: Any) -> None:
        with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
            for member, content in entries:
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                for key, value in info.items():
                    setattr(entry, key, value)
                archive.addfile(entry, io.BytesIO(content))

    def edited(change: Callable[[dict[str, Any]], object]) -> list[tuple[str, bytes]]:
        metadata = json.loads(good.metadata.to_bytes())
        change(metadata)
        return [(METADATA, json.dumps(metadata).encode()), (MODULE, good.module)]

    def for_target(**change: object) -> Package:
        target = TargetInfo(**{**good.metadata.target.model_dump(), **change})
        return Package(good.metadata.model_copy(update={"target": target}), good.module)

    tar("zipped.tar", members, "w:gz")
    tar("escape.tar", [*members, ("../../escaped", b"x")])
    tar("link.tar", [(MODULE, b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd")
    tar("twice.tar", [*members, members[1]])
    tar("bare.tar", members[1:])
    tar("flipped.tar", [members[0], (MODULE, good.module[:-1] + b"?")])
    tar("newer.tar", edited(lambda metadata: metadata.update(format_version=2)))
    tar("odd.tar", edited(lambda metadata: metadata["inputs"][0].update(shape=[-1])))
    (folder / "half.tar").write_bytes((folder / "good.tar").read_bytes()[: len(good.module) // 2])
    for_target(arch="aarch64").save(folder / "arm.tar")
    for_target(features=("pni", "avx9000")).save(folder / "future.tar")
    kept = {name: getattr(good.metadata, name) for name in type(good.metadata).model_fields}
    del kept["format_version"], kept["members"]
    Package.build(b"no library", **kept).save(folder / "nolib.tar")


def _arrays(folder: Path) -> None:
    x, ids = np.zeros((2, 8), "float32"), np.zeros((2, 3), "int64")

    def save(name: str, **arrays: np.ndarray) -> None:
        np.savez(folder / f"{name}.npz", **arrays)

    save("good", x=x, ids=ids)
    save("objects", x=np.array([{}], object), ids=ids)
    save("strings", x=np.array(["a"]), ids=ids)
    save("empty")
    save("missing", x=x)
    save("extra", x=x, ids=ids, more=x)
    save("misnamed", x=x, idz=ids)
    save("rank", x=x.ravel(), ids=ids)
    save("width", x=np.zeros((2, 9), "float32"), ids=ids)
    save("batch", x=np.zeros((9, 8), "float32"), ids=np.zeros((9, 3), "int64"))
    save("none", x=x[:0], ids=ids[:0])
    save("uneven", x=x, ids=np.zeros((3, 3), "int64"))
    save("lossy", x=x, ids=ids.astype("float64"))
    save("whole", x=x.astype("int64"), ids=ids)
    np.save(folder / "bare.npy", x)
    (folder / "half.npz").write_bytes((folder / "good.npz").read_bytes()[:300])


def _models(folder: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype("float32")

    def model(
        name: str,
        nodes: list[onnx.NodeProto] | None = None,
        weight: onnx.TensorProto | None = None,
        opset: int | None = 17,
        outputs: tuple[str, ...] = ("y",),
        dtype: int = TensorProto.FLOAT,
    ) -> None:
        nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", dtype, ["n", 8])],
            [helper.make_tensor_value_info(output, dtype, ["n", 8]) for output in outputs],
            [weight or sound],
        )
        built = helper.make_model(graph, ir_version=9)
        del built.opset_import[:]
        if opset is not None:
            built.opset_import.append(helper.make_opsetid("", opset))
        (folder / f"{name}.onnx").write_bytes(built.SerializeToString())

    def bad(value: float) -> onnx.TensorProto:
        changed = weight.copy()
        changed[3, 4] = value
        return numpy_helper.from_array(changed, "w")

    def outside(location: str) -> onnx.TensorProto:
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(8, 8))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return tensor

    def fc(source: str = "x", to: str = "y") -> onnx.NodeProto:
        return helper.make_node("MatMul", [source, "w"], [to], name="fc")

    sound = numpy_helper.from_array(weight, "w")
    model("good")
    (folder / "half.onnx").write_bytes((folder / "good.onnx").read_bytes()[:200])
    model("nan", weight=bad(np.nan))
    model("inf", weight=bad(-np.inf))
    model("short", weight=TensorProto(name="w", data_type=1, dims=(8, 8), raw_data=bytes(12)))
    model("huge", weight=TensorProto(name="w", data_type=1, dims=(1 << 40, 1 << 40), raw_data=bytes(256)))
    model("external", weight=outside("absent.bin"))
    model("escape", weight=outside("../../../../../../etc/passwd"))
    model("absolute", weight=outside("/etc/passwd"))
    model("noopset", opset=None)
    model("opset6", opset=6)
    model("opset999", opset=999)
    model("unknown", [helper.make_node("Frobnicate", ["x"], ["h"]), fc("h")])
    model("domain", [helper.make_node("Gelu", ["x"], ["h"], domain="com.example"), fc("h")])
    model("undefined", [fc("ghost")])
    model("cycle", [helper.make_node("Add", ["x", "y"], ["h"]), fc("h")])
    model("mismatch", weight=numpy_helper.from_array(weight[:7], "w"))
    model("loop", [helper.make_node("Loop", ["", "", "x"], ["h"], body=_body()), fc("h")])
    model("strings", [helper.make_node("Identity", ["x"], ["y"])], dtype=TensorProto.STRING)
    model("nooutput", outputs=())
    model("twice", [fc("x", "h"), helper.make_node("Relu", ["x"], ["h"]), fc("h")])


def _body() -> onnx.GraphProto:
    infos = {
        name: helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("i", TensorProto.INT64, []),
            ("go", TensorProto.BOOL, []),
            ("a", TensorProto.FLOAT, ["n", 8]),
            ("b", TensorProto.FLOAT, ["n", 8]),
        )
    }
    nodes = [helper.make_node("Relu", ["a"], ["b"])]
    return helper.make_graph(nodes, "body", [infos["i"], infos["go"], infos["a"]], [infos["go"], infos["b"]])


def split(line: str) -> list[str]:
    """The arguments of a case: separated by blanks, but for what stands between bars."""
    parts = line.split("|")
    return [word for i, part in enumerate(parts) for word in ([part] if i % 2 else part.split())]


def test_there_are_enough_cases_and_none_twice() -> None:
    assert len({line for line, _, _ in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize(("line", "code", "piece"), CASES, ids=[line or "nothing" for line, _, _ in CASES])
def test_refused(
    line: str,
    code: int,
    piece: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    got = run(split(line))
    out, err = capfd.readouterr()
    lines = err.splitlines()
    errors = [one for one in lines if one.startswith("error: ")]
    assert (got, len(errors)) == (code, 1), err
    assert piece in errors[0]
    assert len([one for one in lines if one.startswith("hint: ")]) == 1
    assert lines[-1].startswith("hint: ") and len(lines[-1]) > len("hint: ")
    assert "Traceback" not in err and out == ""
    assert sorted(path.name for path in place.iterdir()) == before


SPAWNED = [OPTIONS[1], TARGETS[-1], PACKAGES[0], PACKAGES[-1], ARRAYS[-1], MODELS[0]]


@pytest.mark.parametrize(("line", "code", "piece"), SPAWNED, ids=[line for line, _, _ in SPAWNED])
def test_the_process_says_the_same_with_json(line: str, code: int, piece: str, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "espalier", *split(line), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
    )
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["code"] == code and piece in error["message"]
    assert done.stderr == f"error: {error['message']}\nhint: {error['hint']}\n"
    assert set(error) == {"code", "kind", "message", "hint"}
