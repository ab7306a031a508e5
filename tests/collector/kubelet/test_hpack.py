"""HPACK against the examples of RFC 7541, appendix C, and what must be refused."""

from __future__ import annotations

import pytest

from wattmill_collector.kubelet.hpack import Decoder, encode, huffman


def decoded(decoder: Decoder, block: str) -> list[str]:
    return [f"{name.decode()}: {value.decode()}" for name, value in decoder.decode(bytes.fromhex(block))]


def test_literals_and_indices_of_appendix_c2() -> None:
    assert decoded(Decoder(), "400a637573746f6d2d6b65790d637573746f6d2d686561646572") == ["custom-key: custom-header"]
    assert decoded(Decoder(), "040c2f73616d706c652f70617468") == [":path: /sample/path"]
    assert decoded(Decoder(), "100870617373776f726406736563726574") == ["password: secret"]
    assert decoded(Decoder(), "82") == [":method: GET"]


@pytest.mark.parametrize(
    "blocks",
    [
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
    ids=["plain, C.3", "huffman, C.4"],
)
def test_requests_that_fill_the_dynamic_table(blocks: tuple[str, str, str]) -> None:
    decoder = Decoder()
    first, second, third = (decoded(decoder, block) for block in blocks)
    assert first == [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"]
    assert second == [*first, "cache-control: no-cache"]
    assert third == [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ]


def test_a_table_that_is_too_small_forgets_its_oldest_entries_as_in_appendix_c6() -> None:
    """The responses of C.6 with a table of 256 bytes, which is set by the first byte here."""
    decoder = Decoder()
    first = decoded(
        decoder,
        "3fe101488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    )
    assert first == [
        ":status: 302",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:21 GMT",
        "location: https://www.example.com",
    ]
    assert decoded(decoder, "4883640effc1c0bf") == [":status: 307", *first[1:]]
    third = decoded(
        decoder,
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    )
    assert third == [
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: https://www.example.com",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ]
    with pytest.raises(ValueError, match="no header 65"):
        decoder.decode(b"\xc1")  # the fourth entry of three


def test_what_is_written_can_be_read() -> None:
    headers = [(":method", "POST"), (":path", "/v1.PodResourcesLister/List"), ("te", "trailers")]
    block = encode(headers)
    assert block[0] == 0x83  # one byte, from the static table
    assert [(name.decode(), value.decode()) for name, value in Decoder().decode(block)] == headers


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "no header 0"),
        ("be", "no header 62"),
        ("400a6375", "ends too early"),
        ("40", "ends too early"),
        ("3fffffffffffff00", "does not end"),
        ("3fe2ff7f", "was not agreed on"),
        ("0001618100", "filled up"),
    ],
)
def test_a_broken_block_is_refused(block: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Decoder().decode(bytes.fromhex(block))


def test_a_huffman_text_must_not_contain_its_end() -> None:
    with pytest.raises(ValueError, match="contains its end"):
        huffman(b"\xff\xff\xff\xff")


ALL_BYTES = bytes.fromhex(
    "ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfffffebfffffecf"
    "ffffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdffffffe3fffffe7fffffebfff"
    "ffed4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50ddbd7f061c58f265cd9f469d5af66dddbf87"
    "1e5f9cff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426defe3cfaf7fffbfe7ffbffdffffffcfffe6ffff4bfff9ffffa"
    "3fffd3ffff53fffd5ffffb3fffeb7fffdaffffb7ffff73fffeeffffdeffffebffffbfffffd9ffffdbfffebffffe0ffffeeffffc3ffff"
    "8bffff1ffffe4fffee7fffb1ffff97fffd9ffffcdffff9fffffbffffdafffeeffff4ffffb7fffee7fffe8ffffd3fffdeffffd5fffeef"
    "fffbdffffe1fffdfffff7fffff5ffffecffff07fff87fffe0ffff17fffedffff87ffff77fffeffffeaffff8bfffe3ffff93ffff87fff"
    "cbffff37ffff1fffff83ffffe1fffebfffe3ffff3fffff2ffffa3ffffd9fffff17ffffc7fffff27ffffdefffffbffffff2fffff8ffff"
    "fb7fff97fff8fffffe6fffffc1fffff87ffffe7fffffc5ffffe5fffe4ffff2fffffd1fffff4ffffffefffffe3fffffc9fffff97fffb3"
    "ffffcffffb7fffcdffff4ffff9ffffd1ffffcffffeaffffafffffddffffeffffff4fffff5fffffabffffa7ffffd7fffff9bffffecfff"
    "ffb7fffff3fffffe8fffffd3fffffabfffff5fffffff7ffffecfffffdbfffffbbfffff7ffffff0fffffbbf"
)


def test_every_byte_has_its_code() -> None:
    """The bytes 0 to 255 in a row, as another implementation (hpack 4.2) codes them."""
    assert huffman(ALL_BYTES) == bytes(range(256))
