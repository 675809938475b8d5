"""Every attack of the list, against the one fetcher."""

import gzip
import ipaddress
import socket
import time
import zlib
from http.server import BaseHTTPRequestHandler

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.search.addresses import is_public, parse_url
from fathom.search.decoding import Inflater, decode_text
from fathom.search.errors import BlockedAddressError, FetchError
from fathom.search.fetching import MAX_BYTES, fetch, fetch_json

HTML = {"Content-Type": "text/html; charset=utf-8"}
PUBLIC = "93.184.216.34"

PRIVATE = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
    "224.0.1.1", "198.18.0.1", "192.0.2.1", "240.0.0.1", "::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff0e::1",
    "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:c0a8:101::1", "2001:0:7f00:1::1", "2001:0:5db8:d822:0:0:80ff:fffe",
    "2606:4700::5efe:10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_that_stands_for_a_private_address_is_not_dialled(wire, address):
    wire.names["innocent.example"] = [[PUBLIC, address]]
    with pytest.raises(BlockedAddressError, match="not an address of the public internet"):
        await fetch("http://innocent.example/")
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(BlockedAddressError):
        await fetch(f"http://{literal}/")
    assert wire.dialled == []


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_like_itself(inner):
    mapped = ipaddress.IPv6Address(f"::ffff:{inner}")
    translated = ipaddress.IPv6Address(f"64:ff9b::{inner}")
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (int(inner) << 80))
    assert is_public(mapped) == is_public(translated) == is_public(inner)
    assert is_public(inner) or not is_public(sixtofour)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://0/",
        "http://1.2.3/", "http://127.0.0.01/", "http://[fe80::1%25eth0]/", "http://[::1/",
        "http://[::zz]/", "http://user@example.com/", "http://user:pw@example.com/", "http://example.com\\@127.0.0.1/",
        "http://example.com/\\a", "http://exa\tmple.com/", "http://example.com/a\r\nHost: x", "http://example.com/\n",
        " http://example.com/", "http://example.com /", "http://example.com:22/", "http://example.com:6379/",
        "http://example.com:0/", "http://example.com:99999/", "http://example.com:x/", "ftp://example.com/",
        "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)", "data:text/html,x", "//example.com/",
        "example.com", "http://", "http:///path", "http://-a.example/", "http://a..b/", "http://exa%6dple.com/",
        "http://example.com/" + "a" * 3000, "http://ex\u0000ample.com/", "http://１２７.0.0.1.x1.0x7f/",
    ],
)  # fmt: skip
async def test_ambiguous_and_foreign_urls_are_refused_before_any_lookup(wire, url):
    with pytest.raises(BlockedAddressError):
        await fetch(url)
    assert wire.resolved == []
    assert wire.dialled == []


@pytest.mark.parametrize("host", ["localhost", "localhost.", "LOCALHOST"])
async def test_localhost_by_any_name_is_refused(host):
    with pytest.raises(BlockedAddressError):
        await fetch(f"http://{host}/")


@given(st.text(max_size=60))
def test_a_url_is_either_refused_or_has_one_form(text):
    try:
        target = parse_url("http://" + text)
    except BlockedAddressError:
        return
    assert parse_url(target.url) == target
    assert target.url.isascii()


def test_names_in_other_scripts_become_ascii():
    assert parse_url("https://例子.测试/路?q=汉#x").url == "https://xn--fsqu00a.xn--0zwm56d/%E8%B7%AF?q=%E6%B1%89"


async def test_the_judged_address_is_dialled_even_if_the_name_is_rebound(wire):
    """DNS rebinding: public when judged, private ever after; there is no second look-up to be fooled."""
    wire.names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    wire.respond(200, HTML, b"<p>hello")
    page = await fetch("http://rebind.example/")
    assert page.text == "<p>hello"
    assert wire.resolved == ["rebind.example"]
    assert wire.dialled == [(PUBLIC, 80)]


async def test_a_rebound_name_is_refused_at_the_next_hop(wire):
    wire.names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    wire.respond(302, {"Location": "/next"})
    with pytest.raises(BlockedAddressError):
        await fetch("http://rebind.example/")
    assert wire.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/", "http://169.254.169.254/latest/meta-data/", "//10.0.0.1/", "http://[::ffff:127.0.0.1]/",
        "file:///etc/passwd", "http://good.example:22/", "http://good.example\\@127.0.0.1/", "/a\tb", "http://2130706433/",
    ],
)  # fmt: skip
async def test_redirects_are_judged(wire, location):
    wire.names["good.example"] = [[PUBLIC]]
    wire.respond(302, {"Location": location})
    with pytest.raises(BlockedAddressError):
        await fetch("http://good.example/")
    assert wire.dialled == [(PUBLIC, 80)]


async def test_redirects_are_followed_five_times_and_no_more(wire):
    wire.names["good.example"] = [[PUBLIC]]
    for hop in range(5):
        wire.respond(301, {"Location": f"/{hop}?next=http://x"})
    wire.respond(200, HTML, b"there")
    page = await fetch("http://good.example/")
    assert (page.url, page.text) == ("http://good.example/4?next=http://x", "there")
    for hop in range(6):
        wire.respond(301, {"Location": f"/{hop}"})
    with pytest.raises(FetchError, match="more than 5"):
        await fetch("http://good.example/")


async def test_the_environment_s_proxy_is_not_asked(wire, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    wire.names["good.example"] = [[PUBLIC]]
    wire.respond(200, HTML, b"direct")
    assert (await fetch("http://good.example/")).text == "direct"
    assert wire.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/json", "image/svg+xml", ""])
async def test_only_text_is_read(wire, kind):
    wire.respond(200, {"Content-Type": kind} if kind else {}, b"x")
    with pytest.raises(FetchError, match="not application/xhtml"):
        await fetch(f"http://{PUBLIC}/")


async def test_a_bomb_unfolds_to_the_limit_and_stops(site):
    bomb = gzip.compress(b"a" * (20 * MAX_BYTES))
    site.pages["/"] = (200, {**HTML, "Content-Encoding": "gzip"}, bomb)
    page = await fetch(site.url, allow_private=True)
    assert page.truncated
    assert len(page.text) == MAX_BYTES


async def test_a_drip_is_cut_by_the_clock(site):
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        for _ in range(12):
            time.sleep(0.05)
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    site.pages["/"] = drip
    with pytest.raises(FetchError, match=r"longer than 0\.3 s"):
        await fetch(site.url, allow_private=True, max_seconds=0.3)


async def test_private_permission_covers_the_named_origin_only(site):
    site.pages["/"] = (302, {"Location": "/page"}, b"")
    site.html("/page", "mine")
    assert (await fetch(site.url, allow_private=True)).text == "mine"
    site.pages["/"] = (302, {"Location": site.url.replace("127.0.0.1", "127.0.0.2") + "/page"}, b"")
    with pytest.raises(BlockedAddressError):
        await fetch(site.url, allow_private=True)
    with pytest.raises(BlockedAddressError):
        await fetch(site.url)


async def test_a_key_does_not_follow_a_redirect(site):
    site.pages["/"] = (307, {"Location": "/elsewhere"}, b"")
    with pytest.raises(FetchError, match="answers 307"):
        await fetch_json(site.url, headers={"X-Key": "secret"}, allow_private=True)
    assert [path for _, path, _, _ in site.requests] == ["/"]


async def test_failures_say_what_happened(site):
    with pytest.raises(FetchError, match="answers 404"):
        await fetch(site.url + "/missing", allow_private=True)
    site.pages["/"] = (200, {**HTML, "Content-Encoding": "gzip"}, b"no gzip at all")
    with pytest.raises(FetchError, match="compression is broken"):
        await fetch(site.url, allow_private=True)
    site.pages["/"] = (200, {**HTML, "Content-Encoding": "br"}, b"x")
    with pytest.raises(FetchError, match="not asked for"):
        await fetch(site.url, allow_private=True)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FetchError, match="cannot be read"):
        await fetch(f"http://127.0.0.1:{port}/", allow_private=True)
    site.pages["/"] = (200, {"Content-Type": "application/json"}, b"[" * 100_000)
    with pytest.raises(FetchError, match="broken JSON"):
        await fetch_json(site.url, allow_private=True)


@given(st.binary(max_size=400), st.integers(1, 60), st.integers(1, 300))
def test_inflating_does_not_depend_on_how_the_bytes_are_cut(data, size, limit):
    packed = zlib.compress(data)
    inflater = Inflater("deflate", limit)
    for start in range(0, len(packed), size):
        if not inflater.push(packed[start : start + size]):
            break
    assert inflater.data == data[:limit]
    assert inflater.truncated == (len(data) > limit)


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("汉字".encode("gbk"), "gb2312", "汉字"),
        (b'<meta charset="gbk">' + "汉字".encode("gbk"), None, '<meta charset="gbk">汉字'),
        ("漢字".encode("big5"), "Big5", "漢字"),
        ("é".encode("cp1252"), "ISO-8859-1", "é"),
        ("é".encode(), None, "é"),
        (b"\xef\xbb\xbf" + "é".encode(), "latin1", "é"),
        ("سلام".encode("cp1256"), "windows-1256", "سلام"),
        (b"a\xffb", "rot13", "a\ufffdb"),
    ],
)
def test_charsets(data, charset, text):
    assert decode_text(data, charset) == text
