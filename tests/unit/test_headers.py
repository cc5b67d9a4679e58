"""csrc/ builds without XLA's and TensorFlow's headers; here its own declarations are checked against them.

A C++ compiler checks static assertions about both; nothing is linked or run.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
XLA = CSRC / "jax" / "xla_ffi.h"
TENSORFLOW = CSRC / "tensorflow" / "c_api.h"

# Our structs, XLA's, and for each of our fields XLA's. A star marks structs of XLA's with more fields at the end.
BASE = {"struct_size": "struct_size", "extensions": "extension_start"}
STRUCTS = {
    "Extension": ("Extension_Base", {"struct_size": "struct_size", "type": "type", "next": "next"}),
    "Version": ("Api_Version", BASE | {"major": "major_version", "minor": "minor_version"}),
    "ErrorArguments": ("Error_Create_Args", BASE | {"message": "message", "code": "errc"}),
    "DestroyArguments": ("Error_Destroy_Args", BASE | {"error": "error"}),
    "ThreadsArguments": ("ThreadPool_NumThreads_Args", BASE | {"context": "ctx", "number": "num_threads"}),
    "Api": (
        "Api*",
        BASE
        | {"version": "api_version", "internal": "internal_api", "create_error": "XLA_FFI_Error_Create"}
        | {"get_message": "XLA_FFI_Error_GetMessage", "destroy_error": "XLA_FFI_Error_Destroy"}
        | {"unused[0]": "XLA_FFI_Handler_Register", "unused[8]": "XLA_FFI_ThreadPool_Schedule"}
        | {"count_threads": "XLA_FFI_ThreadPool_NumThreads"},
    ),
    "Buffer": ("Buffer", BASE | {"type": "dtype", "data": "data", "rank": "rank", "sizes": "dims"}),
    "Array": ("Array", {"type": "dtype", "size": "size", "data": "data"}),
    "Buffers": ("Args", BASE | {"size": "size", "types": "types", "items": "args"}),
    "Attributes": ("Attrs", BASE | {"size": "size", "types": "types", "names": "names", "items": "attrs"}),
    "CallFrame": (
        "CallFrame*",
        BASE
        | {"api": "api", "context": "ctx", "stage": "stage"}
        | {"arguments": "args", "results": "rets", "attributes": "attrs"},
    ),
    "Metadata": (
        "Metadata*",
        {"struct_size": "struct_size", "version": "api_version", "traits": "traits"},
    ),
    "MetadataExtension": ("Metadata_Extension", {"base": "extension_base", "metadata": "metadata"}),
}
# XLA has a second struct for results, and we have not.
RESULTS = ("Buffers", "Rets", BASE | {"size": "size", "types": "types", "items": "rets"})
VALUES = {
    "kMajor": "API_MAJOR",
    "kMinor": "API_MINOR",
    "kInvalidArgument": "Error_Code_INVALID_ARGUMENT",
    "kResourceExhausted": "Error_Code_RESOURCE_EXHAUSTED",
    "kInternal": "Error_Code_INTERNAL",
    "kS64": "DataType_S64",
    "kF16": "DataType_F16",
    "kF32": "DataType_F32",
    "kF64": "DataType_F64",
    "kBF16": "DataType_BF16",
    "kArray": "AttrType_ARRAY",
    "kMetadataExtension": "Extension_Metadata",
}


def check_xla(header: str) -> str:
    """A program that compiles if structs and values of our header are XLA's."""
    lines = ["#include <xla/ffi/api/c_api.h>", header, "namespace ours = batchnorm::xla;"]
    structs = [(ours, *rest) for ours, rest in STRUCTS.items()]
    for ours, theirs, fields in (*structs, RESULTS):
        ours, grows, theirs = f"ours::{ours}", theirs.endswith("*"), f"XLA_FFI_{theirs.rstrip('*')}"
        lines.append(holds(f"sizeof({ours}) {'<=' if grows else '=='} sizeof({theirs})"))
        for own, other in fields.items():
            lines.append(holds(f"offsetof({ours}, {own}) == offsetof({theirs}, {other})"))
            lines.append(holds(f"sizeof({ours}::{own}) == sizeof({theirs}::{other})"))
    lines += [holds(f"int(ours::{own}) == int(XLA_FFI_{other})") for own, other in VALUES.items()]
    return "\n".join(lines)


def check_tensorflow(header: str) -> str:
    """A program that compiles if functions and values of our header are TensorFlow's."""
    body = header.partition('extern "C" {')[2].rpartition("}")[0]
    # Without our types, their names mean TensorFlow's.
    functions = re.sub(r"^(struct|enum) [^;]*;\n", "", body, flags=re.MULTILINE)
    lines = [
        f"#include <tensorflow/c/{name}.h>"
        for name in ("kernels", "ops", "tf_tensor", "tf_status", "tf_datatype")
    ]
    lines += ["#include <type_traits>", "namespace ours {", functions, "}"]
    for name in re.findall(r"\b(TF_\w+)\((?!\*)", functions):
        lines.append(holds(f"std::is_same_v<decltype(ours::{name}), decltype(::{name})>"))
    for name, value in re.findall(r"(TF_\w+) = (\d+)", body):
        lines.append(holds(f"int({name}) == {value}"))
    lines += [holds(f"sizeof({name}) == sizeof(int)") for name in re.findall(r"enum (\w+)", body)]
    return "\n".join(lines)


def holds(condition: str) -> str:
    return f'static_assert({condition}, "");'


def compiled(program: str, include: str, folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    file = folder / "check.cc"
    file.write_text(program, encoding="utf-8")
    command = [compiler, "-std=c++17", "-fsyntax-only", "-isystem", include, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def xla_include() -> str:
    return pytest.importorskip("jax").ffi.include_dir()


@pytest.fixture
def tensorflow_include() -> str:
    return pytest.importorskip("tensorflow").sysconfig.get_include()


def test_xla_structs_are_those_of_its_header(xla_include: str, tmp_path: Path) -> None:
    done = compiled(check_xla(XLA.read_text(encoding="utf-8")), xla_include, tmp_path)
    assert done.returncode == 0, done.stderr


def test_tensorflow_functions_are_those_of_its_headers(tensorflow_include: str, tmp_path: Path) -> None:
    done = compiled(check_tensorflow(TENSORFLOW.read_text(encoding="utf-8")), tensorflow_include, tmp_path)
    assert done.returncode == 0, done.stderr


# A change to our header, and what the compiler then says.
XLA_CHANGES = [
    ("void* unused[9];", "void* unused[8];", "XLA_FFI_ThreadPool_NumThreads"),
    (
        "  int64_t rank;\n  int64_t* sizes;",
        "  int64_t* sizes;\n  int64_t rank;",
        "offsetof(ours::Buffer, rank)",
    ),
    ("  int major, minor;", "  int64_t major, minor;", "sizeof(ours::Version)"),
    ("kBF16 = 16", "kBF16 = 15", "ours::kBF16"),
]
TENSORFLOW_CHANGES = [
    (
        "int64_t TF_Dim(const TF_Tensor*, int axis)",
        "int64_t TF_Dim(const TF_Tensor*, int64_t axis)",
        "ours::TF_Dim",
    ),
    ("void TF_DeleteStatus(TF_Status*);", "int TF_DeleteStatus(TF_Status*);", "ours::TF_DeleteStatus"),
    ("TF_HALF = 19", "TF_HALF = 18", "TF_HALF"),
]


@pytest.mark.parametrize(("before", "after", "said"), XLA_CHANGES, ids=[row[2] for row in XLA_CHANGES])
def test_a_wrong_xla_struct_fails(
    before: str, after: str, said: str, xla_include: str, tmp_path: Path
) -> None:
    header = XLA.read_text(encoding="utf-8")
    assert header.count(before) == 1
    done = compiled(check_xla(header.replace(before, after)), xla_include, tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"), TENSORFLOW_CHANGES, ids=[row[2] for row in TENSORFLOW_CHANGES]
)
def test_a_wrong_tensorflow_function_fails(
    before: str, after: str, said: str, tensorflow_include: str, tmp_path: Path
) -> None:
    header = TENSORFLOW.read_text(encoding="utf-8")
    assert header.count(before) == 1
    done = compiled(check_tensorflow(header.replace(before, after)), tensorflow_include, tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


def fields(header: str) -> Iterator[tuple[str, set[str]]]:
    """Each struct of our header, with the names of its fields."""
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", header, re.MULTILINE | re.DOTALL):
        body = re.sub(r"//.*", "", body)
        body = re.sub(r"\(\*(\w+)\)\([^)]*\)", r"\1", body)  # pointers to functions
        yield (
            name,
            {
                part.split()[-1].lstrip("*").partition("[")[0]
                for line in body.split(";")
                if line.strip()
                for part in line.split(",")
            },
        )


def test_every_struct_field_and_value_is_checked() -> None:
    header = XLA.read_text(encoding="utf-8")
    checked = {name: {field.partition("[")[0] for field in rest[1]} for name, rest in STRUCTS.items()}
    assert dict(fields(header)) == checked
    assert set(re.findall(r"\b(k[A-Z]\w*) =", header)) == set(VALUES)
    assert set(re.findall(r"\b(k[A-Z]\w*)\b", header)) == set(VALUES)
    text = TENSORFLOW.read_text(encoding="utf-8")
    program = check_tensorflow(text)
    assert all(
        f"decltype(::{name})" in program
        for name in re.findall(r"^(?!\s|//|struct|enum).*?(TF_\w+)\(", text, re.MULTILINE)
    )
