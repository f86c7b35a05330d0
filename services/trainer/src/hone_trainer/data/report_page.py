"""report.html: the report for a person, on one page that needs nothing else."""

from typing import Any

from jinja2 import Environment

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
td.number, th.number { text-align: right }
th { border-bottom: 1px solid currentColor }
.bar { background: #4a7; height: 1em }
code { overflow-wrap: anywhere }
</style>
<h1>{{ title }}</h1>
<p>{{ report.read }} rows were read: {{ report.accepted }} accepted, {{ report.rejected }} rejected,
{{ report.removed }} removed{% if report.repeated %}, and {{ report.repeated }} repeated{% endif %}.
{{ report.train_records }} records are learned from, {{ report.eval_records }} are set aside.</p>
{% if report.notes %}<ul>{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Sources</h2>
<table>
<tr><th>source<th>for<th>forms<th class="number">read<th class="number">accepted<th>rejected<th>removed</tr>
{% for source in report.sources %}
<tr><td>{{ source.name }}<td>{{ source.role }}<td>{{ counts(source.forms) }}
<td class="number">{{ source.read }}<td class="number">{{ source.accepted }}
<td>{{ counts(source.rejected) }}<td>{{ counts(source.removed) }}</tr>
{% endfor %}
</table>
{% if report.tokens %}
<h2>Tokens</h2>
<p>{{ report.tokens.per_epoch }} an epoch, of which {{ report.tokens.learned_per_epoch }} are learned,
as {{ report.tokens.base }} counts them. A record has {{ report.tokens.shortest }} to
{{ report.tokens.longest }}, half of them at most {{ report.tokens.median }}, 95 in 100 at most
{{ report.tokens.p95 }}.</p>
<table>
<tr><th>tokens<th class="number">records<th></tr>
{% for bar in report.tokens.histogram %}
<tr><td>{{ bar.from }} to {{ bar.to }}<td class="number">{{ bar.records }}
<td style="width: 20rem"><div class="bar" style="width: {{ 100 * bar.records // highest }}%"></div></tr>
{% endfor %}
</table>
{% endif %}
{% if rejected %}
<h2>Rejected rows</h2>
<p>The first {{ rejected | length }}; all of them are in rejected.jsonl.</p>
<table>
<tr><th>place<th>what is wrong<th>begins</tr>
{% for row in rejected %}
<tr><td>{{ row.file }}:{{ row.line }}<td>{{ row.message }}<td><code>{{ row.excerpt }}</code></tr>
{% endfor %}
</table>
{% endif %}
"""
SHOWN = 50


def report_page(title: str, report: dict[str, Any], rejected: list[dict[str, Any]]) -> str:
    """The page. Whatever came from the data is escaped."""
    bars = report["tokens"]["histogram"] if report["tokens"] else []
    highest = max((bar["records"] for bar in bars), default=0) or 1
    template = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    return template.render(title=title, report=report, rejected=rejected, highest=highest, counts=_counts)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items()) or "none"
