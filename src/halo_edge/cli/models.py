"""`halo pull`, `halo synth`, `halo tokenize` and `halo perplexity`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from halo_edge.cli.compute import compute_session, model_path
from halo_edge.cli.compute_options import ComputeOptions
from halo_edge.cli.console import byte_progress, notes, print_json
from halo_edge.cli.options import Json, Model
from halo_edge.cli.prompt import text_argument, text_file
from halo_edge.cli.report import spent_fields
from halo_edge.engine.kl import KlMeter, Origin, open_base, save_base
from halo_edge.engine.perplexity import Perplexity
from halo_edge.engine.perplexity import perplexity as score
from halo_edge.engine.windows import Judge, Scope, cut
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
    step_tokens: Annotated[
        int | None,
        Option(
            "--step-tokens",
            min=1,
            help="Tokens computed in a step; 1: as in decode. Default: as many as in a prompt.",
        ),
    ] = None,
    save_logits: Annotated[
        Path | None,
        Option(
            "--save-logits",
            dir_okay=False,
            metavar="FILE",
            help="Keep what the model says at every scored position, for --kl-base: 2 bytes for "
            "each token of the vocabulary.",
        ),
    ] = None,
    kl_base: Annotated[
        Path | None,
        Option(
            "--kl-base",
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Also measure the KL divergence from the run that --save-logits kept.",
        ),
    ] = None,
    json: Json = False,
    options: ComputeOptions,
) -> None:
    """Score a text as llama-perplexity does: lower is better."""
    text, scope = text_file(file), Scope(ctx, windows=chunks, step_tokens=step_tokens)
    with ExitStack() as stack:
        session = stack.enter_context(compute_session(options, ctx))
        model = session.model
        judges: list[Judge] = []
        meter: KlMeter | None = None
        if save_logits is not None or kl_base is not None:
            origin = Origin.of(model, text, scope, len(cut(model.tokenizer, text, scope)))
            if kl_base is not None:
                meter = stack.enter_context(open_base(kl_base, origin))
                judges.append(meter)
            if save_logits is not None:
                judges.append(stack.enter_context(save_base(save_logits, origin)))
        result: Perplexity | None = None
        for result in score(model.forward, session.gather, model.tokenizer, text, scope, judges):
            if not json:
                notes.print(f"[{result.chunks}] {result.ppl:.4f}", end="  ", markup=False)
    if result is None:
        raise HaloError("nothing was scored")
    divergence = None if meter is None else meter.divergence()
    if json:
        fields: dict[str, object] = {
            "ppl": result.ppl,
            "stderr": result.stderr,
            "tokens": result.tokens,
            "chunks": result.chunks,
        }
        if divergence is not None:
            fields |= {
                "kl": divergence.kl,
                "kl_stderr": divergence.stderr,
                "kl_p99": divergence.p99,
                "same_top": divergence.same_top,
            }
        if session.cluster is not None:
            fields["retransmissions"] = session.cluster.statistics.retransmissions
            fields |= spent_fields(session.cluster.spent)
        print_json(fields)
        return
    notes.print()
    print(f"perplexity {result.ppl:.4f} +/- {result.stderr:.4f} ({result.tokens} tokens)")
    if divergence is not None:
        print(
            f"KL {divergence.kl:.6f} +/- {divergence.stderr:.6f} nats, p99 {divergence.p99:.4f}, "
            f"same likeliest token {divergence.same_top * 100:.2f} %"
        )
