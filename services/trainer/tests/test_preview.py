"""`hone-trainer preview`: what is shown is what is trained, and no data commands a terminal or a page."""

import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from trainer_cli import run_trainer
from trainer_tiny import conversation, line, questions, write_lines
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hone_contract.store import Store
from hone_trainer.__main__ import main
from hone_trainer.chat.conversation import see
from hone_trainer.chat.preview import Shown, as_text, show
from hone_trainer.chat.preview_page import as_page
from hone_trainer.plan import make_plan
from hone_trainer.record import Record, load_records

NASTY = '\x1b[31m</pre><script>alert("1")</script>&amp;\x9b\x07\x00'


@pytest.fixture
def folder(tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run spec and data."""
    (tmp_path / "model").symlink_to(llama_folder)
    (tmp_path / "run.yaml").write_text("model: {name: ./model}\ndata: data.jsonl\n", encoding="utf-8")
    write_lines(tmp_path / "data.jsonl", questions(30))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def preview(monkeypatch: pytest.MonkeyPatch, *options: str, code: int = 0) -> None:
    """The command in this process: it takes seconds to load the model libraries anew."""
    monkeypatch.setattr(sys, "argv", ["hone-trainer", "preview", "run.yaml", *options])
    with pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code or 0) == code


@pytest.mark.chain
def test_the_command_shows_three_records_with_what_is_learned(folder: Path) -> None:
    done = run_trainer(folder, "preview", "run.yaml")
    assert done.code == 0, done.err
    titles = re.findall(r"^── data\.jsonl:(\d+): (\d+) tokens, (\d+) learned$", done.out, re.M)
    assert len(titles) == 3
    assert done.out.count("<|im_start|>assistant\n⟦The sky is blue.<|im_end|>⟧") == 3
    assert done.out.count("⟦") == done.out.count("⟧") == 3
    for number, tokens, learned in titles:
        assert f"thing {int(number) - 1}?" in done.out
        assert 0 < int(learned) < int(tokens)


@pytest.mark.parametrize(("count", "shown"), [("1", 1), ("5", 5), ("999", None)])
def test_as_many_records_as_asked_for_are_shown_evenly_spread(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: str,
    shown: int | None,
) -> None:
    preview(monkeypatch, "--records", count)
    sources = re.findall(r"^── (\S+): \d+ tokens", capsys.readouterr().out, re.M)
    plan = make_plan(folder / "run.yaml", None, Store(folder / "store"))
    all_sources = [record.source for record in load_records(plan.dataset.path / "train.jsonl")]
    number = shown or len(all_sources)
    assert sources == [all_sources[index * len(all_sources) // number] for index in range(number)]


def test_the_data_option_and_the_spec_template_are_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(folder / "other.jsonl", [line(("user", "Hi?"), ("assistant", f"Ho {n}.")) for n in range(2)])
    spec = "model: {name: ./model, chat_template: mistral-instruct}\n"
    (folder / "run.yaml").write_text(spec, encoding="utf-8")
    preview(monkeypatch, "--data", "other.jsonl", "--records", "1")
    assert re.search(r"\[INST\] Hi\? \[/INST\]⟦ Ho \d\.<\|im_end\|>⟧\n", capsys.readouterr().out)


def test_what_is_shown_is_what_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preview(monkeypatch, "--records", "99")
    out = capsys.readouterr().out
    plan = make_plan(folder / "run.yaml", None, Store(folder / "store"))
    tokenizer = AutoTokenizer.from_pretrained(plan.base.path)
    for record in load_records(plan.dataset.path / "train.jsonl"):
        seen = see(tokenizer, record)
        learned = [token for token, learn in zip(seen.ids, seen.learned, strict=True) if learn]
        title = f"── {record.source}: {len(seen.ids)} tokens, {len(learned)} learned\n"
        text = out.split(title)[1].split("── ")[0].removesuffix("\n").removesuffix("\n")
        assert text.replace("⟦", "").replace("⟧", "").strip() == tokenizer.decode(seen.ids).strip()
        assert "".join(re.findall("⟦(.*?)⟧", text, re.S)) == tokenizer.decode(learned)


def test_a_terminal_gets_colour() -> None:
    text = as_text([Shown("data.jsonl:7", 9, 4, [("sky: ", False), ("blue", True)])], colour=True)
    assert text == "\x1b[1mdata.jsonl:7: 9 tokens, 4 learned\x1b[0m\nsky: \x1b[1;32mblue\x1b[0m\n"


def test_control_characters_of_the_data_are_shown_and_not_obeyed(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = conversation(("user", f"{NASTY} ?"), ("assistant", f"{NASTY}\tgreen"))
    shown = show(tokenizer, Record(messages, "data.jsonl:7"))
    for out in (as_text(shown, colour=False), as_page(shown, "Records")):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out)
        assert "␛[31m" in out and "\tgreen" in out


class Page(HTMLParser):
    """The tags of a page, the text of its records, and what is marked in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.marked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, _attributes: object) -> None:
        self.tags.append(tag)
        if tag == "mark":
            self.marked.append("")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "mark":
            self.marked[-1] += data


def test_the_page_is_one_file_in_which_the_data_is_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = '</pre><script>alert("1")</script>&amp; <b>blue</b>'
    write_lines(folder / "data.jsonl", [line(("user", f"{n}?"), ("assistant", answer)) for n in range(3)])
    preview(monkeypatch, "--records", "2", "--html", "page.html")
    assert capsys.readouterr().out == "page.html\n"
    text = (folder / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.marked == ["marked", answer + "<|im_end|>", answer + "<|im_end|>"]
    assert {"script", "b", "link", "img"}.isdisjoint(page.tags)
    assert page.tags.count("pre") == page.tags.count("/pre") == 2
    assert not re.search(r"https?:|src=|href=|@import|url\(", text)


def test_a_title_is_text_too() -> None:
    page = as_page([Shown("<i>.jsonl:1", 1, 1, [("x", True)])], "<u>{0}")
    assert "<i>" not in page and "<u>" not in page
    assert unescape(re.findall("<h1>(.*?)</h1>", page)[0]) == "<u>{0}"


def test_a_page_in_no_folder_is_told_at_once(folder: Path) -> None:
    done = run_trainer(folder, "preview", "run.yaml", "--html", "no/page.html")
    assert (done.code, done.err) == (78, "error: --html: there is no folder no; make it first\n")
    assert not (folder / "store").exists()


def test_a_record_that_training_refuses_is_told_with_its_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = "model: {name: ./model, chat_template: ./cut.jinja}\ndata: data.jsonl\n"
    (folder / "run.yaml").write_text(spec, encoding="utf-8")
    cut = "{% for m in messages %}{{ m.content[:9] + eos_token }}{% endfor %}"
    (folder / "cut.jinja").write_text(cut, encoding="utf-8")
    preview(monkeypatch, code=65)
    told = capsys.readouterr().err
    assert "data.jsonl:1: " in told and "does not write messages[1] in full" in told
