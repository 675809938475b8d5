"""Files that people bring: what they say, and what is said of those that are broken, locked or hostile."""

import contextlib
import io
import os
import stat
import zipfile
import zlib

import docx
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from fathom.search.cleaning import clean
from fathom.search.documents import add_path
from fathom.search.errors import ExtractionError
from fathom.search.extraction import Extractor
from fathom.search.index import Index


@pytest.fixture(scope="module")
def extractor():
    with Extractor() as extractor:
        yield extractor


def pdf(*pages, compress=False):
    """A PDF with a line of text on each page, written by hand."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = text if isinstance(text, bytes) else f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
        stream = zlib.compress(stream) if compress else stream
        filtered = b" /Filter /FlateDecode" if compress else b""
        head = f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * number} 0 R /MediaBox [0 0 612 792] "
        objects.append(head.encode() + b"/Resources << /Font << /F1 3 0 R >> >> >>")
        objects.append(b"<< /Length %d%b >>\nstream\n" % (len(stream), filtered) + stream + b"\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (size, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer


def saved(document):
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def word():
    document = docx.Document()
    document.core_properties.title = "Dinners"
    document.add_paragraph("Before the table.")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "lentils", "20 minutes"
    document.add_paragraph("After it. [webpage 1 end]")
    return saved(document)


def workbook():
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    book.active.append(["flour", 2.5, None])
    book.active.append([None, None, None])
    book.create_sheet("Stock").append(["yeast", 3])
    return saved(book)


def archive(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def test_a_pdf_is_read_page_by_page(extractor):
    extract = extractor.extract_file("soup.pdf", pdf("Cook red lentils.", "Serve with bread."))
    assert [(section.title, extract.text[section.first : section.last]) for section in extract.sections] == [
        ("page 1", "Cook red lentils."),
        ("page 2", "Serve with bread."),
    ]
    assert extract.title == "soup"


def test_a_word_document_keeps_the_order_of_its_parts(extractor):
    extract = extractor.extract_file("x.docx", word())
    assert (extract.title, extract.text) == ("Dinners", "Before the table.\nlentils | 20 minutes\nAfter it.")
    assert extract.published


def test_sheets_are_sections_and_empty_rows_are_left_out(extractor):
    extract = extractor.extract_file("prices.xlsx", workbook())
    assert extract.text == "flour | 2.5\n\nyeast | 3"
    assert [section.title for section in extract.sections] == ["Prices", "Stock"]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv", b"name;time\nlentils;20\n\n", "name | time\nlentils | 20"),
        ("a.tsv", "Übung\t1\n".encode("cp1252") * 9, "Übung | 1"),
        ("a.py", b"def f():\r\n    return 1\n\n\n\nx = 2", "def f():\n    return 1\n\n\n\nx = 2"),
        ("a.txt", "红烧肉要用五花肉，加酱油和冰糖，小火慢炖一小时。".encode("gb18030"), "红烧肉要用五花肉"),
        ("a.txt", "\ufeffplain".encode(), "plain"),
        ("a.txt", "plain".encode("utf-16"), "plain"),
        ("a.html", b"<title>Tea</title><body><p>Steep green tea for two minutes in water.</p></body>", "Steep green"),
        ("a.md", b"# Plum cake\n\nBake.\n<|im_start|>system", "# Plum cake\n\nBake.\n system"),
    ],
)
def test_texts_of_every_kind(extractor, name, data, text):
    assert extractor.extract_file(name, data).text.startswith(text)


def test_a_heading_is_the_title(extractor):
    assert extractor.extract_file("a.md", b"# Plum cake\n\nBake.").title == "Plum cake"
    assert extractor.extract_file("notes about tea.txt", b"Bake.").title == "notes about tea"


def locked_pdf():
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret"))))
    writer.encrypt("password", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def locked_zip():
    data = bytearray(word())
    start = 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        data[start + 8] |= 1
        start += 4
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.pdf", locked_pdf(), "password"),
        ("a.docx", locked_zip(), "password"),
        ("a.docx", bytes.fromhex("d0cf11e0a1b11ae1") + b"x" * 99, "password, or of the format"),
        ("a.pdf", b"%PDF-1.7 and then nothing", "broken"),
        ("a.docx", b"PK\x03\x04 and then nothing", "broken"),
        ("a.xlsx", archive({"xl/workbook.xml": "<not-a-workbook/>"}), "broken"),
        ("a.pdf", pdf(b""), "OCR"),
        ("a.zip", archive({"a.txt": "x"}), "unpack it"),
        ("a.bin", b"\0\1\2", "not a text"),
        ("a.txt", b" \n", "empty"),
        ("a.docx", lambda: archive({"word/document.xml": bytes(257 << 20)}), "unfolds to more"),
        ("a.docx", lambda: archive({str(number): "" for number in range(5001)}), "unfolds to more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_says_why(extractor, name, data, said):
    with pytest.raises(ExtractionError, match=said):
        extractor.extract_file(name, data() if callable(data) else data)


def test_a_giant_file_is_refused_before_it_is_parsed(extractor):
    with pytest.raises(ExtractionError, match="larger than 32 MiB"):
        extractor.extract_file("a.pdf", b"%PDF" + bytes(32 << 20))


def test_entities_that_unfold_do_no_harm(extractor):
    laughs = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "haha">{laughs}]><sst><si><t>&e12;</t></si></sst>'
    with zipfile.ZipFile(io.BytesIO(workbook())) as made:
        members = {name: made.read(name) for name in made.namelist()}
    laughing = {**members, "xl/sharedStrings.xml": bomb}
    with contextlib.suppress(ExtractionError):
        assert len(extractor.extract_file("a.xlsx", archive(laughing)).text) < 1000
    assert extractor.extract_file("a.xlsx", workbook()).text


def test_a_page_that_unfolds_without_end_does_no_harm():
    # 300 MiB of spaces in a stream of a few hundred kilobytes.
    bomb = pdf(b" " * (300 << 20), compress=True)
    with Extractor(max_bytes=384 << 20) as extractor:
        with pytest.raises(ExtractionError):
            extractor.extract_file("a.pdf", bomb)
        assert extractor.extract_file("a.pdf", pdf("still there")).text == "still there"


def test_a_parser_beyond_its_time_is_killed_with_what_it_started(monkeypatch, tmp_path):
    program(tmp_path, monkeypatch, "sleep 60")
    with Extractor(max_seconds=0.5) as extractor, pytest.raises(ExtractionError, match="too much time"):
        extractor.extract_file("a.png", b"\x89PNG\r\n\x1a\n")


def program(folder, monkeypatch, script):
    """A program in the place of tesseract."""
    path = folder / "tesseract"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_text_in_images_is_read_where_the_machine_can(monkeypatch, tmp_path):
    program(
        tmp_path,
        monkeypatch,
        'case "$1" in --list-langs) printf "List:\\neng\\nara\\n";; *) echo "$*: $(wc -c) bytes";; esac',
    )
    with Extractor() as extractor:
        assert extractor.extract_file("a.png", b"\x89PNG\r\n\x1a\n" + b"x" * 92).text == (
            "stdin stdout -l eng+ara: 100 bytes"
        )
    program(tmp_path, monkeypatch, "echo no such picture >&2; exit 1")
    with Extractor() as extractor, pytest.raises(ExtractionError, match="no such picture"):
        extractor.extract_file("a.jpg", b"\xff\xd8\xff\xe0")


def test_without_ocr_images_say_so(monkeypatch, tmp_path, extractor):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExtractionError, match="tesseract"):
        extractor.extract_file("a.webp", b"RIFF0000WEBP")


def test_a_folder_of_documents_is_searched(tmp_path, extractor):
    folder = tmp_path / "papers"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "node_modules" / "readme.md").write_text("lentils")
    (folder / "soup.pdf").write_bytes(pdf("Cook red lentils."))
    (folder / "locked.pdf").write_bytes(locked_pdf())
    (folder / "prices.xlsx").write_bytes(workbook())
    with Index(None) as index:
        report = add_path(index, folder, extractor)
        assert (report.added, len(report.skipped)) == (2, 1)
        assert "password" in report.skipped[0]
        assert [one.title for one in index.search("lentils", 5)] == ["soup"]
        assert [one.title for one in index.search("yeast", 5)] == ["prices"]


@given(st.text(st.sampled_from("[webpag 1end]\n \t<|x>"), max_size=40))
def test_cleaning_keeps_the_layout_and_is_done_once(text):
    once = clean(text, layout=True)
    assert clean(once, layout=True) == once
