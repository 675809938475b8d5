"""On-policy distillation: the student answers, and every token of its answers is pulled to the teacher's distribution.

The loss is the reverse KL, KL(student || teacher), over the whole vocabulary at every sampled token (MiniLLM and GKD,
arXiv 2306.08543 and 2306.13649; no gradient goes through the sampling). Nothing has to be right or even checkable:
where the student goes astray, the teacher says what it would have written there.

M sampled tokens of a micro-batch, C rows of a chunk, D and E hidden sizes of student and teacher, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fathom.checkpoints import open_checkpoint, resolve
from fathom.checkpoints.adapters import read_adapter
from fathom.data.errors import RecipeError
from fathom.engine.loading import read_tokenizer
from fathom.models.lora import LowRankTraining
from fathom.models.transformer import Transformer
from fathom.rl.collector import Judged
from fathom.rl.grpo import GrpoTrainer, Say, hidden_states, micro_batches
from fathom.rl.grpo_metrics import Outcome
from fathom.rl.grpo_recipe import GrpoRecipe
from fathom.rl.objective import Mismatch
from fathom.text import Tokenizer
from fathom.training.objective import head_weight
from fathom.training.sft_weights import trainable_model

_ROWS = 256  # of logits at once
_UNKNOWN = Mismatch(0.0, 0.0, 0.0)


class OnPolicyTrainer(GrpoTrainer):
    """The GRPO trainer with another lesson: its rollouts, metrics (`kl` is the divergence that is learned away; rewards
    are only looked at), checkpoints and resume are the same.

    Args:
        recipe: the student's run; its `objective` plays no part.
        teacher: a model reference, or a folder from the recipe's.
        adapter: a folder with an adapter of the teacher, from the recipe's; None: the bare model.
        base: the folder that the recipe's paths start from.
        resume: go on from the newest checkpoint.
        say: told what a person should know.

    Raises:
        RecipeError: teacher and student do not share one vocabulary. ResumeError: as `GrpoTrainer`.

    """

    def __init__(
        self,
        recipe: GrpoRecipe,
        teacher: str,
        adapter: str | None,
        base: Path,
        *,
        resume: bool = False,
        say: Say = print,
    ) -> None:
        paths = [resolve(str(base / ref) if (base / ref).exists() else ref) for ref in (teacher, recipe.model)]
        check_same_vocabulary(*(read_tokenizer(open_checkpoint(path)) for path in paths))
        self.teacher, _ = trainable_model(paths[0], recipe.precision, full=False)
        self.teacher.requires_grad_(False)
        if adapter is not None:
            LowRankTraining(self.teacher, read_adapter(base / adapter).adapter)
        super().__init__(recipe, base, resume=resume, say=say)

    def _learn(self, judged: Sequence[Sequence[Judged]]) -> Outcome:
        """Update the weights from one step's rollouts, right or wrong."""
        outcome = Outcome()
        rollouts = [one.rollout for group in judged for one in group]
        tokens = sum(len(one.tokens) for one in rollouts)
        for places in micro_batches(rollouts, self.recipe.micro_tokens):
            chosen = [rollouts[place] for place in places]
            with torch.no_grad():
                taught_ME = hidden_states(self.teacher, chosen)
            kl_M, entropy_M = chunked_reverse_kl(self.model, hidden_states(self.model, chosen), self.teacher, taught_ME)
            (kl_M.sum() / tokens).backward()  # type: ignore[no-untyped-call]
            self.learned.collect()
            outcome.add(len(kl_M), torch.zeros(()), kl_M.detach().mean(), entropy_M.mean(), _UNKNOWN, _UNKNOWN)
        norm = self.learned.gradient_norm()
        outcome.rate, outcome.loss, outcome.norm = self.rate, outcome.kl, float(norm)
        self._move(len(rollouts), outcome.loss, norm, outcome)
        return outcome


def reverse_kl(student_CV: Tensor, teacher_CV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher) of each row's logits, and the student's entropy (without gradient); float32, in nats."""
    student_CV, teacher_CV = student_CV.float().log_softmax(-1), teacher_CV.float().log_softmax(-1)
    p_CV = student_CV.exp()
    return (p_CV * (student_CV - teacher_CV)).sum(-1), -(p_CV * student_CV).sum(-1).detach()


def chunked_reverse_kl(
    student: Transformer, student_MD: Tensor, teacher: Transformer, teacher_ME: Tensor, rows: int = _ROWS
) -> tuple[Tensor, Tensor]:
    """`reverse_kl` of all rows, with the logits of `rows` rows at a time, forward and backward."""
    student_VD, teacher_VE = head_weight(student), head_weight(teacher)

    def part(student_CD: Tensor, teacher_CE: Tensor) -> tuple[Tensor, Tensor]:
        return reverse_kl(F.linear(student_CD, student_VD), F.linear(teacher_CE, teacher_VE))

    parts = [
        checkpoint(part, *chunk, use_reentrant=False)
        for chunk in zip(torch.split(student_MD, rows), torch.split(teacher_ME, rows), strict=True)
    ]
    return torch.cat([kl_C for kl_C, _ in parts]), torch.cat([entropy_C for _, entropy_C in parts])


def check_same_vocabulary(teacher: Tokenizer, student: Tokenizer) -> None:
    """Raise RecipeError, naming the first difference, unless every id means the same to both."""
    remedy = "take a teacher of the student's family, or leave on_policy out to learn the teacher's text instead"
    if teacher.vocab_size != student.vocab_size:
        sizes = f"{teacher.vocab_size} and {student.vocab_size} tokens"
        raise RecipeError(f"teacher and student have vocabularies of {sizes}: {remedy}")
    for id in range(teacher.vocab_size):
        ours, theirs = student.token_bytes(id), teacher.token_bytes(id)
        if ours != theirs:
            raise RecipeError(f"token {id} is {theirs!r} to the teacher and {ours!r} to the student: {remedy}")
