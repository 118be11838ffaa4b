"""Which addresses a network may hand out, in which order. Pure arithmetic, no I/O.

An address travels as packed bytes (4 for IPv4); inside this module it is an integer.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_address(text: object) -> bytes:
    """`"10.244.0.5"` to four bytes. Raises ValueError that says what is wrong with the text."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no IPv4 address in text form")
    if ":" in text:
        raise ValueError(f"{text!r} is IPv6, which this version does not wire")
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        raise ValueError(f"{text!r} is no IPv4 address")
    if any(int(part) > 255 or (part[0] == "0" and part != "0") for part in parts):
        raise ValueError(f"{text!r} is no IPv4 address (each part is 0-255 without leading zeros)")
    return bytes(map(int, parts))


def format_address(address: bytes) -> str:
    """Packed bytes to text."""
    return ".".join(map(str, address))


def parse_subnet(text: object) -> "tuple[bytes, int]":
    """`"10.244.0.0/24"` to (network address, prefix length). Raises ValueError, also for set host bits."""
    if not isinstance(text, str) or text.count("/") != 1:
        raise ValueError(f"{text!r} is no subnet in the form ADDRESS/PREFIX")
    left, right = text.split("/")
    address = parse_address(left)
    if not (right.isascii() and right.isdigit() and right == str(int(right)) and int(right) <= 32):
        raise ValueError(f"{text!r} has no prefix length of 0-32")
    prefix = int(right)
    size = 1 << (32 - prefix)
    base = _number(address)
    if base % size:
        raise ValueError(f"{text!r} has host bits set; the subnet is {_text(base - base % size)}/{prefix}")
    return address, prefix


def _number(address: bytes) -> int:
    return int.from_bytes(address, "big")


def _packed(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _text(number: int) -> str:
    return format_address(_packed(number))


class Range:
    """One contiguous part of a subnet: `first` to `last`, both usable (integers), and its subnet in text."""

    __slots__ = ("first", "gateway", "last", "subnet")

    def __init__(self, subnet: object, start: object = None, end: object = None, gateway: object = None) -> None:
        """Network and broadcast address stay out, except in /31 and /32. Raises ValueError."""
        address, prefix = parse_subnet(subnet)
        self.subnet = str(subnet)
        base, size = _number(address), 1 << (32 - prefix)
        edge = 1 if size > 2 else 0
        lowest, highest = base + edge, base + size - 1 - edge
        self.first = self._inside("rangeStart", start, lowest, highest, lowest)
        self.last = self._inside("rangeEnd", end, lowest, highest, highest)
        self.gateway = self._inside("gateway", gateway, lowest, highest, 0)
        if self.first > self.last:
            raise ValueError(f"rangeStart {_text(self.first)} lies behind rangeEnd {_text(self.last)}")

    def _inside(self, key: str, text: object, lowest: int, highest: int, default: int) -> int:
        if text is None:
            return default
        number = _number(parse_address(text))
        if not lowest <= number <= highest:
            raise ValueError(f"{key} {text} is outside {self.subnet} ({_text(lowest)}-{_text(highest)})")
        return number

    def overlaps(self, other: "Range") -> bool:
        """Whether an address lies in both."""
        return self.first <= other.last and other.first <= self.last


class RangeSet:
    """Ranges of which an attachment gets one address, and what in them is never handed out."""

    __slots__ = ("excluded", "ranges")

    def __init__(self, ranges: "list[Range]", excluded: "list[tuple[int, int]]") -> None:
        self.ranges = ranges
        self.excluded = excluded + [(each.gateway, each.gateway) for each in ranges if each.gateway]

    def __str__(self) -> str:
        return ", ".join(f"{_text(each.first)}-{_text(each.last)}" for each in self.ranges)

    def name(self) -> str:
        """A file name for this set's cursor, made of validated addresses only."""
        return f"{_text(self.ranges[0].first)}-{_text(self.ranges[-1].last)}"

    def size(self) -> int:
        """Addresses that can be handed out."""
        total = 0
        for each in self.ranges:
            total += each.last - each.first + 1
            for low, high in _merged(self.excluded):
                total -= max(0, min(high, each.last) - max(low, each.first) + 1)
        return total

    def allows(self, address: bytes) -> bool:
        """Whether the set may hand out this address."""
        number = _number(address)
        return any(each.first <= number <= each.last for each in self.ranges) and not self._is_excluded(number)

    def candidates(self, cursor: "bytes | None") -> "Iterator[bytes]":
        """Every address of the set once, beginning behind `cursor` and wrapping round.

        Round robin keeps a freed address out of use as long as the pool allows.
        """
        start, offset = 0, 0
        if cursor is not None:
            number = _number(cursor)
            for position, each in enumerate(self.ranges):
                if each.first <= number <= each.last:
                    start, offset = position, number - each.first + 1
        count = len(self.ranges)
        excluded = _merged(self.excluded)
        for step in range(count + 1):
            each = self.ranges[(start + step) % count]
            low = each.first + offset if step == 0 else each.first
            high = each.first + offset - 1 if step == count else each.last
            # What is excluded is leapt over: it may be most of a /8, and the node's lock is held meanwhile.
            for first, last in [*excluded, (high + 1, high + 1)]:
                for number in range(low, min(first, high + 1)):
                    yield _packed(number)
                low = max(low, last + 1)

    def _is_excluded(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self.excluded)


def parse_exclusion(text: object) -> "tuple[int, int]":
    """An address or a subnet to (first, last). Raises ValueError."""
    if isinstance(text, str) and "/" in text:
        address, prefix = parse_subnet(text)
        return _number(address), _number(address) + (1 << (32 - prefix)) - 1
    number = _number(parse_address(text))
    return number, number


def merge_subnets(subnets: "list[str]") -> "list[str]":
    """Subnets in text to disjoint `first-last` intervals in nft's words: interval sets refuse nested ones."""
    spans = [parse_exclusion(subnet) for subnet in subnets]
    return [_text(low) if low == high else f"{_text(low)}-{_text(high)}" for low, high in _merged(spans)]


def _merged(spans: "list[tuple[int, int]]") -> "list[tuple[int, int]]":
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
