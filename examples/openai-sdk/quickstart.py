"""From data to a chat, with nothing but OpenAI's SDK: `quickstart.py [DATA.jsonl [QUESTION]]`.

OPENAI_BASE_URL and OPENAI_API_KEY name the api and a key for it; the SDK reads them by itself.
"""

import sys
import time
from pathlib import Path

from openai import OpenAI

DATA = str(Path(__file__).parents[1] / "hone-faq" / "train.jsonl")
# In no line of the data are these the words.
QUESTION = "What route tells me whether the server is ready?"
data, question = (sys.argv[1:] + [DATA, QUESTION][len(sys.argv) - 1 :])[:2]

client = OpenAI()
file = client.files.create(file=Path(data), purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model="smollm2-135m-instruct",
    training_file=file.id,
    suffix="quickstart",
    # Without a seed, each job gets a different one, and learns a little more or less.
    seed=7,
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}}},
)
told: set[str] = set()
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
    # The newest come first.
    for event in reversed([*client.fine_tuning.jobs.list_events(job.id, limit=100)]):
        if event.id not in told:
            print(event.message, flush=True)
            told.add(event.id)
if not job.fine_tuned_model:
    sys.exit(f"{job.id} {job.status}: {job.error.message if job.error else 'its events say why'}")

answer = client.chat.completions.create(
    model=job.fine_tuned_model, messages=[{"role": "user", "content": question}], temperature=0
)
print(f"\n{question}\n{answer.choices[0].message.content}")
