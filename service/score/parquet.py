"""Parquet files to score: as `service.score.files` has the others."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.extras import needs
from models.formats import DataError, as_text, position
from service.score.files import Block, Place, Values, check_free

with needs("cli"):
    import pyarrow as pa
    from pyarrow import parquet

BLOCK_ROWS, BLOCK_BYTES = 256, 1 << 20
"""A block has no more, but where one row is larger."""
GROUP_ROWS, GROUP_BYTES = 1 << 16, 64 << 20
"""A row group that is written ends with the block that reaches one of them."""


class Parquet:
    """What is written before the end is one Arrow stream a block: a Parquet file cannot be gone on with."""

    def __init__(self, path: Path, text_column: str, added: list[str]) -> None:
        self._path, self._text_column = path, text_column
        with self._file() as file:
            self._schema = file.schema_arrow
        position(path, self._schema.names, text_column, None, "--text-column")
        check_free(path, added, self._schema.names, None)
        label, *_, tokens, dropped, error = added
        types = {label: pa.string(), tokens: pa.int64(), dropped: pa.int64(), error: pa.string()}
        self._added = [pa.field(name, types.get(name, pa.float64())) for name in added]
        for field in self._added:
            self._schema = self._schema.append(field)

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        try:
            # buffered: a row group may be larger than memory
            with parquet.ParquetFile(self._path, buffer_size=1 << 20) as file:
                yield file
        except pa.ArrowException as error:
            reason = f"is not a whole Parquet file ({str(error).splitlines()[0]}): write it again"
            raise DataError(self._path, reason) from error

    def blocks(self, start: Place) -> Iterator[Block]:
        size, done = self._path.stat().st_size, 0
        with self._file() as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if done + rows <= start.rows:
                    done += rows
                    continue
                for batch in self._slices(file, group):
                    first, done = done + 1, done + len(batch)
                    if done > start.rows:
                        numbers = range(first, done + 1)
                        texts = list(map(self._text, numbers, batch.column(self._text_column)))
                        yield Block(batch, numbers, texts, Place(done), size * done // file.metadata.num_rows)

    @staticmethod
    def _slices(file: Any, group: int) -> Iterator[Any]:
        for batch in file.iter_batches(BLOCK_ROWS, row_groups=[group]):
            rows = max(1, len(batch) * BLOCK_BYTES // max(batch.nbytes, BLOCK_BYTES))
            yield from (batch.slice(first, rows) for first in range(0, len(batch), rows))

    def _text(self, number: int, value: Any) -> str:
        try:
            return as_text(self._path, number, value.as_py())
        except UnicodeDecodeError:
            raise DataError(self._path, "the text is not UTF-8: mend or remove the row", number) from None

    def head(self) -> bytes:
        return b""

    def encode(self, block: Block, added: list[Values]) -> bytes:
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*added, strict=True), self._added, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays([*block.rows.columns, *columns], schema=self._schema)
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, self._schema) as writer:
            writer.write_batch(batch)
        return bytes(stream.getvalue().to_pybytes())

    def finish(self, partial: Path) -> Path:
        whole = partial.with_name(f"{partial.name}.parquet")
        try:
            self._write(partial, whole)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise
        return whole

    def _write(self, partial: Path, whole: Path) -> None:
        with parquet.ParquetWriter(whole, self._schema) as writer, pa.OSFile(str(partial)) as file:
            batches: list[Any] = []
            while file.tell() < file.size():
                batches += pa.ipc.open_stream(file)
                rows, size = sum(map(len, batches)), sum(batch.nbytes for batch in batches)
                if rows >= GROUP_ROWS or size >= GROUP_BYTES or file.tell() == file.size():
                    group = pa.Table.from_batches(batches, self._schema).unify_dictionaries()
                    writer.write_table(group, row_group_size=len(group))
                    batches = []
