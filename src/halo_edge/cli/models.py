"""`halo pull`, `halo synth`, `halo tokenize` and `halo perplexity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from halo_edge.cli.compute import compute_session, model_path
from halo_edge.cli.console import byte_progress, notes, print_json
from halo_edge.cli.options import ComputeOptions, Json, Model
from halo_edge.cli.prompt import text_argument, text_file
from halo_edge.engine.perplexity import Perplexity
from halo_edge.engine.perplexity import perplexity as score
from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.pull import DEMO_MODEL
from halo_edge.model.pull import pull as pull_model
from halo_edge.model.synth import SHAPES, write_synthetic
from halo_edge.model.tokenizer import Tokenizer


def pull(
    model: Annotated[
        str, Argument(help="'smollm2', 'hf:owner/repo/file.gguf', or a path.")
    ] = DEMO_MODEL,
    json: Json = False,
) -> None:
    """Fetch a model into the cache, and check it."""
    with byte_progress(f"fetching {model}") as progress:
        pulled = pull_model(model, progress=progress)
    if json:
        print_json(
            {
                "path": str(pulled.path),
                "sha256": pulled.sha256,
                "source": pulled.source,
                "already_there": pulled.already_there,
            }
        )
        return
    print(pulled.path)
    checked = f"sha256 {pulled.sha256}" if pulled.sha256 else "a file of yours, not checked"
    notes.print(f"{'already there' if pulled.already_there else 'fetched'}; {checked}", style="dim")


def synth(
    shape: Annotated[str, Argument(help=f"One of {', '.join(SHAPES)}.")],
    output: Annotated[
        Path | None, Option("--output", "-o", help="Default: SHAPE-QUANT.gguf.")
    ] = None,
    quantization: Annotated[
        str, Option("--quant", "-q", help="q4_0, q4_1, q8_0, q4_K, q6_K, f16 or f32.")
    ] = "q4_0",
    seed: Annotated[int, Option(min=0)] = 0,
    json: Json = False,
) -> None:
    """Write a model of random weights and a named shape: for speed, not for sense."""
    path = output or Path(f"{shape}-{quantization.lower()}.gguf")
    with byte_progress(f"writing {path}") as progress:
        write_synthetic(shape, path, quantization=quantization, seed=seed, progress=progress)
    if json:
        print_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        print(path)


def tokenize(
    text: Annotated[str, Argument(help="The text, or - for standard input.")],
    model: Model = None,
    add_special: Annotated[
        bool, Option("--add-special", help="Add BOS and EOS as the model asks.")
    ] = False,
    parse_special: Annotated[
        bool, Option("--parse-special", help="Read <|...|> as control tokens.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the token ids of a text."""
    given = text_argument(text)
    tokenizer = Tokenizer.from_gguf(GgufFile.open(model_path(model)).metadata)
    ids = tokenizer.encode(given, add_special=add_special, parse_special=parse_special)
    if json:
        print_json({"ids": ids})
        return
    for token_id in ids:
        piece = tokenizer.token_bytes(token_id, special=True).decode(errors="backslashreplace")
        print(f"{token_id:7d}  {piece!r}")


def perplexity(
    *,
    file: Annotated[Path, Argument(help="A text file, or - for standard input.")],
    ctx: Annotated[
        int, Option("--ctx", min=8, help="Tokens of a chunk; its second half is scored.")
    ] = 512,
    chunks: Annotated[
        int | None, Option("--chunks", min=1, help="Default: the whole text.")
    ] = None,
    json: Json = False,
    options: ComputeOptions,
) -> None:
    """Score a text as llama-perplexity does: lower is better."""
    text = text_file(file)
    result: Perplexity | None = None
    with compute_session(options, ctx) as session:
        model = session.model
        for result in score(
            model.forward, session.gather, model.tokenizer, text, context=ctx, max_chunks=chunks
        ):
            if not json:
                notes.print(f"[{result.chunks}] {result.ppl:.4f}", end="  ", markup=False)
    if result is None:
        raise HaloError("nothing was scored")
    if json:
        fields: dict[str, object] = {
            "ppl": result.ppl,
            "stderr": result.stderr,
            "tokens": result.tokens,
            "chunks": result.chunks,
        }
        if session.cluster is not None:
            fields["retransmissions"] = session.cluster.statistics.retransmissions
        print_json(fields)
    else:
        notes.print()
        print(f"perplexity {result.ppl:.4f} +/- {result.stderr:.4f} ({result.tokens} tokens)")
