def forward_drops(family: int) -> "list[str]":
    return []
