"""A transformer over binned counts, in the manner of NDT-2 (Ye et al., NeurIPS 2023).

    counts of a chunk -> patches of 32 units -> one token a patch
    tokens, in causal attention over the last `context_ms` -> mean over patches -> value and slope per chunk

A patch attends to all patches of its own chunk and of the chunks before, as far as the context reaches, and
to a token of its session. Every layer keeps the keys and values of the context; they are the state, so a
stream computes every chunk once. Through its layers a decoder sees further back than one context.

Differences from the released NDT-2:

- supervised from scratch: no masked modelling of spikes before (possible, but not needed for a table of
  single sessions);
- a count enters as its z-score times a vector of its own unit, where NDT-2 looks small counts up in a table
  shared by all channels and tells channels by their place alone; so sessions need no common channel order;
- time enters as a learned bias per lag and head, where NDT-2 adds embeddings of the time within a trial: a
  stream has no trials;
- a linear readout of the mean token, where NDT-2 has a small transformer as decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.baselines.base import CountsDecoder
from possm.baselines.counts import Columns
from possm.config import require
from possm.errors import ConfigError
from possm.model.contract import DecoderConfig
from possm.model.layers import FeedForward
from possm.model.tokens import embedding_table

BLOCK_CHUNKS = 80
"""Chunks attended to in one go: bounds the memory of a long call, changes nothing else."""
MAX_PATCHES = 64
"""Patches of a session: 2,048 units at 32 a patch."""


@dataclass(frozen=True, kw_only=True)
class Ndt2Config(DecoderConfig):
    """Architecture. `possm.training.presets` holds tuned settings of training."""

    context_ms: int = 1000
    """How far back one layer attends; whole chunks, the newest included."""
    patch_units: int = 32
    """Units of a patch."""
    width: int = 128
    """Size of a token (NDT-2: 256)."""
    depth: int = 4
    """Layers (NDT-2: 6)."""
    heads: int = 4
    """Attention heads; they share the width."""
    input_dropout: float = 0.2
    """Of z-scored counts: a dropped count is the unit's mean."""
    dropout: float = 0.2
    """Of what layers add, inside the feed-forward blocks, and before the readout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context_ms", "patch_units", "width", "depth", "heads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width, {self.width}")
        for name in ("input_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more, below 1")

    @property
    def context(self) -> int:
        """Chunks one layer attends to, the newest included."""
        return max(1, round(self.context_ms / self.chunk_ms))


class Ndt2(CountsDecoder):
    """The decoder, for training and for streams.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: Ndt2Config, *, num_units: int, num_sessions: int) -> None:
        super().__init__(config, num_units=num_units, num_sessions=num_sessions)
        width = config.width
        self.unit = nn.Parameter(torch.randn(num_units, width) * config.patch_units**-0.5)
        self.patch = embedding_table(MAX_PATCHES, width)
        self.session = embedding_table(num_sessions, width)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.layers = nn.ModuleList(
            CausalLayer(width, heads=config.heads, context=config.context, dropout=config.dropout)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.readout = nn.Linear(width, 2 * self.num_outputs)

    def initial_memory(self, num_sequences: int, columns: Columns) -> tuple[Tensor, ...]:
        """Keys and values (S, layers, 2, heads, chunks * patches, head); (S,) how many chunks are known."""
        config, like = self.config, self.readout.weight
        rows = (config.context - 1) * self._num_patches(columns)
        sizes = (num_sequences, config.depth, 2, config.heads, rows, config.width // config.heads)
        return like.new_zeros(sizes), torch.zeros(num_sequences, dtype=torch.int64, device=like.device)

    def decode(
        self, counts: Tensor, session: Tensor, columns: Columns, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As in `CountsDecoder.decode`."""
        tokens = self._tokens(self.input_dropout(counts), session, columns)
        pooled = []
        for block in tokens.split(BLOCK_CHUNKS, dim=1):
            mean, memory = self._attend(block, self.session(session), memory)
            pooled.append(mean)
        return self.readout(self.dropout(self.norm(torch.cat(pooled, dim=1)))), memory

    def _num_patches(self, columns: Columns) -> int:
        number = -(-columns.unit.shape[1] // self.config.patch_units)
        if number > MAX_PATCHES:
            raise ConfigError(
                "the session has more patches than the decoder has places",
                got=f"{columns.unit.shape[1]} units, {number} patches",
                wanted=f"at most {MAX_PATCHES} patches",
                fix="raise patch_units",
            )
        return max(1, number)

    def _tokens(self, counts: Tensor, session: Tensor, columns: Columns) -> Tensor:
        """z-scored counts (S, C, U) -> tokens (S, C, P, width)."""
        patches, size = self._num_patches(columns), self.config.patch_units
        missing = patches * size - counts.shape[2]
        vectors = functional.pad(functional.embedding(columns.unit[session], self.unit), (0, 0, 0, missing))
        parted = functional.pad(counts, (0, missing)).unflatten(2, (patches, size)).transpose(1, 2)
        tokens = parted @ vectors.unflatten(1, (patches, size))  # (S, P, C, width)
        return tokens.transpose(1, 2) + self.patch.weight[:patches]

    def _attend(
        self, tokens: Tensor, session: Tensor, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The layers on a block of chunks: (S, C, P, width) -> mean over patches (S, C, width)."""
        num_chunks, patches = tokens.shape[1:3]
        cache, known = memory
        lag = self._lags(num_chunks, known)
        x = torch.cat([session.unsqueeze(1), tokens.flatten(1, 2)], dim=1)
        kept = []
        for number, layer in enumerate(self.layers):
            x, after = layer(x, cache[:, number], lag, patches=patches)
            kept.append(after)
        memory = torch.stack(kept, dim=1), (known + num_chunks).clamp(max=self.config.context - 1)
        return x[:, 1:].unflatten(1, (num_chunks, patches)).mean(2), memory

    def _lags(self, num_chunks: int, known: Tensor) -> Tensor:
        """(S, C, context - 1 + C) int64: how many chunks a key lies back; (1, ...) where all sequences agree.

        `context + 1` stands for what is not to be seen: the future, what is too far back, and chunks before
        the first.
        """
        context, device = self.config.context, known.device
        known = known[:1] if bool((known == known[0]).all()) else known
        key = torch.arange(1 - context, num_chunks, device=device)
        lag = torch.arange(num_chunks, device=device).unsqueeze(1) - key
        seen = (lag >= 0) & (lag < context) & (key >= -known.view(-1, 1, 1))
        return torch.where(seen, lag, context + 1)


class CausalLayer(nn.Module):
    """Pre-norm attention to the session's token, to remembered and to present tokens; then feed-forward.

    Args:
        width: Size of a token.
        heads: Attention heads.
        context: Chunks it attends to, the newest included.
        dropout: Of what it adds, and inside the feed-forward block.
    """

    def __init__(self, width: int, *, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.bias = embedding_table(context + 1, heads)  # the last row is for the session's token
        self.feed_forward = FeedForward(width, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Tensor, lag: Tensor, *, patches: int) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: (S, 1 + T, width): the session's token, and those of this block.
            cache: (S, 2, heads, M, head): keys and values of the tokens before.
            lag: Of `Ndt2._lags`.
            patches: Tokens of a chunk.

        Returns:
            (S, 1 + T, width), and the newest M keys and values.
        """
        projected = self.to_query_key_value(self.norm(x)).unflatten(2, (3, self.heads, -1))
        query, own = projected.permute(0, 2, 3, 1, 4).split([1, 2], dim=1)  # (S, 1 or 2, heads, 1 + T, head)
        known = torch.cat([cache, own[:, :, :, 1:]], dim=3)
        key, value = torch.cat([own[:, :, :, :1], known], dim=3).unbind(1)
        bias = self._bias(lag, patches)
        attended = functional.scaled_dot_product_attention(query[:, 0], key, value, attn_mask=bias)
        x = x + self.dropout(self.to_out(attended.transpose(1, 2).flatten(2)))
        return self.feed_forward(x), known[:, :, :, known.shape[3] - cache.shape[3] :]

    def _bias(self, lag: Tensor, patches: int) -> Tensor:
        """What is added to the scores: (S or 1, heads, 1 + T, 1 + M + T), -inf where a key is not seen."""
        table = self.bias.weight
        table = torch.cat([table, table.new_full((1, self.heads), -torch.inf)])
        chunks = functional.embedding(lag, table).permute(0, 3, 1, 2)
        tokens = chunks.repeat_interleave(patches, dim=2).repeat_interleave(patches, dim=3)
        session = table[-2].view(1, -1, 1, 1).expand(len(lag), -1, tokens.shape[2], 1)
        whole = functional.pad(torch.cat([session, tokens], dim=3), (0, 0, 1, 0), value=-torch.inf)
        whole[:, :, 0, 0] = 0.0  # the session's token sees itself only
        return whole
