# SPDX-License-Identifier: Apache-2.0
"""What is built in the world outside of this process, and must not stay behind."""

from abc import ABC, abstractmethod
from typing import Self


class Built(ABC):
    """Is there while a context lasts; what failed half-way is removed as well."""

    @abstractmethod
    def _build(self) -> None:
        """Build it."""

    @abstractmethod
    def close(self) -> None:
        """Remove what there is of it; closing twice does no harm."""

    def __enter__(self) -> Self:
        """Build it."""
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Remove it."""
        self.close()
