"""The page that run_report writes: no script, and nothing that a browser would have to fetch."""

from typing import Any

from jinja2 import Environment
from markupsafe import Markup

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{{ report.run_id }}</title>
<style>
:root { color-scheme: light dark; --train: #27866f; --eval: #c2541b }
@media (prefers-color-scheme: dark) { :root { --train: #5cc9ad; --eval: #f29a66 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1, code, td, th { overflow-wrap: anywhere }
h2 { margin-top: 2.5rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
td.number, th.number { text-align: right }
th { border-bottom: 1px solid currentColor }
pre { border: 1px solid #8886; border-radius: .5rem; padding: .5rem 1rem; margin: 0; max-height: 20rem;
  overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere }
.sample { display: grid; grid-template-columns: 6rem 1fr; gap: .5rem 1rem; margin: 1.5rem 0 }
.bar { background: var(--train); height: 1em }
svg { width: 100%; height: auto; display: block }
svg text { font-size: 12px; fill: currentColor }
.grid { stroke: #8884 }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
.curve-0 polyline { stroke: var(--train) }
.curve-1 polyline { stroke: var(--eval); stroke-dasharray: 6 4 }
.curve-0 circle { fill: var(--train) }
.curve-1 circle { fill: var(--eval) }
.spot { opacity: 0 }
.spot:hover { opacity: 1 }
</style>
</head>
<body>
<h1>{{ report.run_id }}</h1>
{% if steps %}
<p>{{ steps[-1].step }} steps, {{ "{:,}".format(steps[-1].tokens) }} tokens.
The loss of a step went from {{ number(steps[0].loss) }} to {{ number(steps[-1].loss) }} {{ unit }}{% if
evaluations %}, on the evaluation records from {{ number(evaluations[0].eval_loss) }} to
{{ number(evaluations[-1].eval_loss) }}{% endif %}.</p>
{% else %}
<p>No step was recorded.</p>
{% endif %}
{% if report.notes %}<ul>{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Loss</h2>
{{ losses }}
{% if evaluations %}
<table>
<tr><th class="number">step</th><th class="number">epoch</th><th class="number">evaluation loss</th>
{% if evaluations[0].eval_rewards %}<th class="number">reward of better answers</th>
<th class="number">of worse ones</th><th class="number">margin</th>
<th class="number">pairs in order</th>{% endif %}</tr>
{% for line in evaluations %}
<tr><td class="number">{{ line.step }}</td><td class="number">{{ "%.2f" % line.epoch }}</td>
<td class="number">{{ number(line.eval_loss) }}</td>
{% if line.eval_rewards %}<td class="number">{{ number(line.eval_rewards.chosen) }}</td>
<td class="number">{{ number(line.eval_rewards.rejected) }}</td>
<td class="number">{{ number(line.eval_rewards.margin) }}</td>
<td class="number">{{ "%.0f" % (100 * line.eval_rewards.accuracy) }} %</td>{% endif %}</tr>
{% endfor %}
</table>
{% else %}
<p>No record was set aside, so nothing can be said of the loss on unseen records.</p>
{% endif %}
<h2>Learning rate</h2>
{{ rates }}
<h2>Samples</h2>
{% for sample in report.samples %}
<div class="sample">
<div>question</div><pre dir="auto">
{{ shown(sample.question) }}</pre>
<div>base</div><pre dir="auto">
{{ shown(sample.before) }}</pre>
<div>tuned</div><pre dir="auto">
{{ shown(sample.after) }}</pre>
{% if sample.reference is not none %}
<div>in the data</div><pre dir="auto">
{{ shown(sample.reference) }}</pre>
{% endif %}
</div>
{% else %}
<p>None was taken.</p>
{% endfor %}
<h2>Data</h2>
<p>{{ data.read }} rows were read: {{ data.accepted }} accepted, {{ data.rejected }} rejected,
{{ data.removed }} removed. {{ data.train_records }} records are learned from, {{ data.eval_records }} are set
aside.</p>
{% if data.notes %}<ul>{% for note in data.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<table>
<tr><th>source</th><th>for</th><th class="number">read</th><th class="number">accepted</th><th>rejected</th>
<th>removed</th></tr>
{% for source in data.sources %}
<tr><td>{{ source.name }}</td><td>{{ source.role }}</td><td class="number">{{ source.read }}</td>
<td class="number">{{ source.accepted }}</td><td>{{ counts(source.rejected) }}</td>
<td>{{ counts(source.removed) }}</td></tr>
{% endfor %}
</table>
{% if data.tokens %}
<p>A record has {{ data.tokens.shortest }} to {{ data.tokens.longest }} tokens, half of them at most
{{ data.tokens.median }}, 95 in 100 at most {{ data.tokens.p95 }}. An epoch has {{ data.tokens.per_epoch }},
of which {{ data.tokens.learned_per_epoch }} are learned.</p>
<table>
<tr><th>tokens</th><th class="number">records</th><th></th></tr>
{% for bar in data.tokens.histogram %}
<tr><td>{{ bar.from }} to {{ bar.to }}</td><td class="number">{{ bar.records }}</td>
<td style="width: 20rem"><div class="bar" style="width: {{ 100 * bar.records // highest }}%"></div></td></tr>
{% endfor %}
</table>
{% endif %}
<h2>Time and memory</h2>
<table>
<tr><th>stage</th><th class="number">seconds</th></tr>
{% for stage, seconds in report.seconds.items() %}
<tr><td>{{ stage }}</td><td class="number">{{ "{:,.1f}".format(seconds) }}</td></tr>
{% endfor %}
</table>
<p>{{ "{:,.0f}".format(report.tokens_per_second) }} tokens a second of training{%
if report.memory_mb is not none %}, at most {{ "{:,.0f}".format(report.memory_mb) }} MB of
memory{% endif %}.</p>
<h2>Run spec</h2>
<pre>
{{ report.spec }}</pre>
<h2>Made from</h2>
<table>
<tr><th>role</th><th>id</th><th>digest</th></tr>
{% for role, source in report.lineage.items() %}
<tr><td>{{ role }}</td><td>{{ source.id }}</td><td><code>{{ source.digest or "none" }}</code></td></tr>
{% endfor %}
</table>
<h2>Made with</h2>
<table>
<tr><th>tool</th><th>version</th></tr>
{% for tool, version in report.tools.items() %}
<tr><td>{{ tool }}</td><td>{{ version }}</td></tr>
{% endfor %}
</table>
</body>
</html>
"""
_LONGEST = 5000


def run_page(report: Any, *, losses: str, rates: str, unit: str, **lines: Any) -> str:
    """The page of a RunReport; `losses`, in `unit`, and `rates` are its charts, as SVG."""
    data = report.dataset
    bars = data["tokens"]["histogram"] if data.get("tokens") else []
    template = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    return template.render(
        report=report,
        data=data,
        highest=max((bar["records"] for bar in bars), default=0) or 1,
        losses=Markup(losses),
        rates=Markup(rates),
        unit=unit,
        number=_number,
        counts=_counts,
        shown=_shown,
        **lines,
    )


def _number(value: float) -> str:
    return f"{value:.4g}"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items()) or "none"


def _shown(text: str) -> str:
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]}… and {more:,} more characters"
