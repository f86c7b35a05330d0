"""report.html: it shows what was told, and nothing that came from the data is more than text."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hone_contract.events import StepMetrics, append_line
from hone_contract.manifest import Source
from hone_trainer.reporting.charts import Curve, line_chart, thinned, ticks
from hone_trainer.reporting.run_report import RunReport, Sample, write_report

NASTY = '</script></pre></title><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"'
VOID = {"meta", "img", "br", "link", "input"}
DATA = {
    "read": 12,
    "accepted": 9,
    "rejected": 2,
    "removed": 1,
    "train_records": 8,
    "eval_records": 1,
    "notes": ["Records to learn from: 8."],
    "sources": [
        {
            "name": "faq.jsonl",
            "role": "train",
            "read": 12,
            "accepted": 9,
            "rejected": {"not_json": 2},
            "removed": {},
        }
    ],
    "tokens": {
        "shortest": 3,
        "longest": 40,
        "median": 20,
        "p95": 33,
        "per_epoch": 160,
        "learned_per_epoch": 90,
        "histogram": [{"from": 1, "to": 20, "records": 2}, {"from": 21, "to": 40, "records": 6}],
    },
}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; every tag must be closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[tuple[str, str]] = []
        """The innermost tag that a text stands in, and the text."""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def within(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(text.split()) for _, text in self.texts)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Four steps and three evaluations, of which a restart told one again."""
    path = tmp_path / "metrics.jsonl"
    told = [StepMetrics(step=0, epoch=0, eval_loss=4.5)]
    for step in (1, 2, 3, 3, 4):
        loss = 5.0 - step
        told.append(
            StepMetrics(step=step, epoch=step / 2, loss=loss, learning_rate=1e-3 / step, tokens=1000 * step)
        )
        if step % 2 == 0:
            told.append(StepMetrics(step=step, epoch=step / 2, eval_loss=loss + 0.25, tokens=1000 * step))
    for line in told:
        append_line(path, line.model_dump_json())
    append_line(path, '{"step": 5, "lo')
    return path


def report(metrics: Path, **changed: object) -> RunReport:
    contents = RunReport(
        run_id="sky-1",
        metrics=metrics,
        spec="model: {name: tiny}\ntraining: {epochs: 2}\n",
        dataset=DATA,
        samples=[
            Sample("What colour?", "Dunno.", "Blue.", "The sky is blue."),
            Sample("Hi?", "a", "b", None),
        ],
        seconds={"training": 1234.56, "evaluation": 7},
        tokens_per_second=356.6,
        memory_mb=1834.2,
        tools={"torch": "2.13.0"},
        lineage={"base": Source(id="tiny", digest="ab" * 32), "spec": Source(id="sky-1")},
    )
    return replace(contents, **changed)  # type: ignore[arg-type]


def page_of(contents: RunReport) -> Page:
    path = contents.metrics.with_name("report.html")
    write_report(path, contents)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_tells_of_the_whole_run(metrics: Path) -> None:
    page = page_of(report(metrics, notes=["The best checkpoint is step 4."]))
    assert page.within("h1") == page.within("title")[:1] == ["sky-1"]
    assert page.within("h2") == [
        "Loss",
        "Learning rate",
        "Samples",
        "Data",
        "Time and memory",
        "Run spec",
        "Made from",
        "Made with",
    ]
    for told in (
        "4 steps, 4,000 tokens. The loss of a step went from 4 to 1 nats a token, "
        "on the evaluation records from 4.5 to 1.25.",
        "The best checkpoint is step 4.",
        "0 0.00 4.5 2 1.00 3.25 4 2.00 1.25",
        "question What colour? base Dunno. tuned Blue. in the data The sky is blue. question Hi? base a",
        "12 rows were read: 9 accepted, 2 rejected, 1 removed.",
        "faq.jsonl train 12 9 2 not json none",
        "3 to 40 tokens, half of them at most 20, 95 in 100 at most 33",
        "1 to 20 2 21 to 40 6",
        "training 1,234.6 evaluation 7.0 357 tokens a second of training, at most 1,834 MB of memory.",
        "model: {name: tiny} training: {epochs: 2}",
        f"base tiny {'ab' * 32} spec sky-1 none",
        "torch 2.13.0",
    ):
        assert told in page.text


def test_the_curves_are_those_of_the_metrics(metrics: Path) -> None:
    page = page_of(report(metrics))
    assert page.tags.count("svg") == 2
    points = [text for text in page.within("title") if ", step" in text]
    training = [f"training, step {step}: {5 - step}" for step in (1, 2, 3, 4)]
    evaluation = [f"evaluation, step {step}: {loss}" for step, loss in ((0, "4.5"), (2, "3.25"), (4, "1.25"))]
    rates = [f"learning rate, step {step}: {0.001 / step:.4g}" for step in (1, 2, 3, 4)]
    assert points == training + evaluation + rates


def test_nothing_of_the_data_is_more_than_text(metrics: Path) -> None:
    dataset = {
        **DATA,
        "notes": [NASTY],
        "sources": [{**DATA["sources"][0], "name": NASTY, "rejected": {NASTY: 1}}],
    }  # type: ignore[index]
    contents = report(
        metrics,
        run_id=NASTY,
        spec=NASTY,
        dataset=dataset,
        samples=[Sample(NASTY, NASTY, NASTY, NASTY)],
        seconds={NASTY: 1.0},
        tools={NASTY: NASTY},
        lineage={NASTY: Source(id=NASTY)},
        notes=[NASTY],
    )
    page, plain = (
        page_of(contents),
        page_of(report(metrics, samples=[Sample("a", "b", "c", "d")], notes=["e"])),
    )
    assert set(page.tags) == set(plain.tags)
    assert page.tags.count("pre") == plain.tags.count("pre") == 5
    assert sum(NASTY in text for _, text in page.texts) == 16


def test_the_page_runs_nothing_and_fetches_nothing(metrics: Path) -> None:
    page = page_of(report(metrics))
    assert not {"script", "img", "link", "iframe", "object", "use", "image", "base"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {
        name for name in names if name in ("src", "href", "srcset", "xlink:href") or name.startswith("on")
    }
    text = metrics.with_name("report.html").read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text and "://" not in text
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("content", policy) in page.attributes


def test_a_long_text_is_cut_and_says_so(metrics: Path) -> None:
    page = page_of(report(metrics, samples=[Sample("a" * 6234, "b", "c", None)]))
    assert "a" * 5000 + "… and 1,234 more characters" in page.text
    assert "a" * 5001 not in page.text


def test_half_a_character_does_not_stop_the_report(metrics: Path) -> None:
    page = page_of(report(metrics, samples=[Sample("odd \ud83d here", "b", "c", None)]))
    assert "odd ? here" in page.text


def test_a_run_that_told_nothing_has_a_report_too(tmp_path: Path) -> None:
    dataset = {**DATA, "tokens": None, "notes": []}
    page = page_of(report(tmp_path / "metrics.jsonl", dataset=dataset, samples=[], memory_mb=None))
    assert "No step was recorded." in page.text and "None was taken." in page.text
    assert "No record was set aside" in page.text
    assert "svg" not in page.tags


# -- charts ----------------------------------------------------------------------------------------


def test_higher_values_stand_higher_and_later_steps_to_the_right() -> None:
    page = Page(line_chart("Loss", "nats", [Curve("loss", [(1, 3.0), (2, 1.0), (3, 2.0)])]))
    [line] = [value for name, value in page.attributes if name == "points"]
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert [x for x, _ in points] == pytest.approx([72, 388, 704])
    heights = [y for _, y in points]
    assert heights[0] < heights[2] < heights[1]
    assert heights[2] == pytest.approx((heights[0] + heights[1]) / 2, abs=0.1)


def test_many_points_become_means_that_say_so() -> None:
    points = [(float(step), float(step % 2)) for step in range(1, 1001)]
    assert thinned(points, 500) == [(float(step), 0.5) for step in range(2, 1001, 2)]
    assert len(thinned(points, 300)) == 250
    assert thinned(points[:3], 3) == points[:3]
    chart = line_chart("Loss", "nats", [Curve("loss", points)])
    assert chart.count("<circle") == 250
    assert "<title>loss, step 4: 0.5 (mean of 4 steps)</title>" in chart


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-9])
def test_a_single_value_can_be_seen(value: float) -> None:
    chart = line_chart("Loss", "nats", [Curve("loss", [(7, value)])])
    assert chart.count('class="mark"') == 1
    assert "nan" not in chart and "inf" not in chart


def test_values_that_are_no_number_are_left_out() -> None:
    odd = [(1, float("nan")), (2, 1.0), (3, float("inf")), (4, 2.0)]
    assert line_chart("Loss", "nats", [Curve("loss", odd)]).count("<circle") == 2
    assert line_chart("Loss", "nats", [Curve("loss", odd[:1])]) == ""
    assert line_chart("Loss", "nats", []) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.93, 3.4, [1, 1.5, 2, 2.5, 3]),
        (-0.00021, 0.00021, [-0.0002, -0.0001, 0, 0.0001, 0.0002]),
        (1, 2, [1, 1.2, 1.4, 1.6, 1.8, 2]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
