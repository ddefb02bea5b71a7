"""Losses: for offsets (L1 to Huber), for classes (cross entropy to focal), and the two papers'
joint losses.

The single losses are elementwise: nothing is summed, because mining, ignoring and normalising come
after.
SSD is arXiv:1512.02325; FL is "Focal Loss for Dense Object Detection", arXiv:1708.02002.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.boxes import at_least_float32, pairwise_giou
from lesson_lib.matching import IGNORE, POSITIVE

# ---- box offsets ----


def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    """|x| of the residual x = pred - target. (...) -> (...), in their unit. Slope +-1 however far
    off.
    """
    return _residual(pred, target).abs()


def l2_loss(pred: Tensor, target: Tensor) -> Tensor:
    """x^2 / 2 of the residual x = pred - target. (...) -> (...). Slope x: an outlier dominates."""
    return 0.5 * _residual(pred, target) ** 2


def smooth_l1_loss(pred: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """L2 near zero, L1 far away, joined with equal value and slope (Fast R-CNN, arXiv:1504.08083,
    eq. 3).

        x^2 / (2 beta)   if |x| < beta,   else   |x| - beta / 2          x = pred - target

    (...) -> (...).  The paper has beta = 1; beta = 0 is L1.  ValueError for a negative beta.
    """
    if beta < 0:
        raise ValueError(
            f"beta is {beta}; it is the |residual| at which the bend ends, so give 0 or more."
        )
    x = _residual(pred, target)
    if beta == 0:
        return x.abs()
    return torch.where(x.abs() < beta, 0.5 * x**2 / beta, x.abs() - 0.5 * beta)


def huber_loss(pred: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Huber's robust loss (1964): L2 up to |x| = delta, then straight on with slope delta.

        x^2 / 2   if |x| < delta,   else   delta (|x| - delta / 2)       x = pred - target

    (...) -> (...).  It is delta times smooth L1 with beta = delta.  ValueError unless delta > 0.
    """
    if delta <= 0:
        raise ValueError(
            f"delta is {delta}; it is the |residual| where the line begins: give more than 0."
        )
    return delta * smooth_l1_loss(pred, target, beta=delta)


def giou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of each box with its target (arXiv:1902.09630, algorithm 1): from 0 to 2.

    pred, target (..., 4) xyxy in one unit -> (...).  One number for a whole box, of no unit: twice
    as large a box, missed by twice as much, costs the same. Apart, it still falls as the box comes
    nearer, or grows towards its target.
    ValueError for unequal shapes.
    """
    _residual(pred, target)  # refuses shapes that do not agree
    return 1 - pairwise_giou(pred[..., None, :], target[..., None, :])[..., 0, 0]


# ---- classes: one sigmoid for each ----


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """CE(p_t) = -log(p_t), p = sigmoid(logit); p_t is p for target 1 and 1 - p for target 0
    (FL eq. 1, 2).

    logits (...), targets (...) 0 or 1, any dtype.  Returns (...), in nats.
    ValueError for unequal shapes.
    """
    return -F.logsigmoid(_towards_target(logits, targets))


def balanced_cross_entropy(logits: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """-alpha_t log(p_t), alpha_t = alpha where the target is 1 and 1 - alpha where it is 0
    (FL eq. 3).

    Shapes as in `binary_cross_entropy`.  ValueError for alpha outside [0, 1].
    One factor for both sides, as summaries of the paper often print it, would balance nothing.
    """
    objects, background = _sides(alpha)
    targets = targets.to(logits.dtype)
    alpha_t = objects * targets + background * (1 - targets)
    return alpha_t * binary_cross_entropy(logits, targets)


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss: cross entropy, faded out where the right answer already has a high probability
    (FL eq. 5).

        FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)

    logits (...), targets (...) 0 or 1, any dtype.  Returns (...), in nats.
    alpha=None: no weights, FL eq. 4.
    ValueError for alpha outside [0, 1], a negative gamma, unequal shapes.
    With z the logit turned towards the target, p_t = sigmoid(z) and 1 - p_t = sigmoid(-z): kept as
    logarithms, value and gradient are finite at any finite logit. The usual code,
    (1 - p_t) ** gamma, rounds 1 - p_t to 0 from about z = 17 on; for gamma < 1 that power's slope
    is infinite there, and inf * 0 is NaN.
    """
    _check_gamma(gamma)
    if alpha is None:
        loss = binary_cross_entropy(logits, targets)
    else:
        loss = balanced_cross_entropy(logits, targets, alpha)
    log_error = F.logsigmoid(-_towards_target(logits, targets))  # log(1 - p_t)
    return loss if gamma == 0 else torch.exp(gamma * log_error) * loss


def prior_bias(pi: float = 0.01) -> float:
    """Bias -log((1 - pi) / pi) of the last classification layer: sigmoid of it is pi
    (FL section 4.1).

    With 0 instead, each of some 100,000 background anchors starts at p = .5: a first loss of
    millions.
    """
    if not 0 < pi < 1:
        raise ValueError(
            f"pi is {pi}; give the probability, in (0, 1), that an untrained anchor predicts."
        )
    return -math.log((1 - pi) / pi)


# ---- classes: one softmax over all ----


def softmax_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """-log softmax(logits)[class]: the confidence loss of one default box (SSD eq. 3).

    logits (..., C), background among the C where there is one; classes (...) int64 in 0..C-1.
    Returns (...).
    """
    return -_log_softmax_at(logits, classes)[1]


def softmax_focal_loss(
    logits: Tensor, classes: Tensor, gamma: float = 2.0, alpha: Tensor | None = None
) -> Tensor:
    """Focal loss over a softmax: -alpha_t (1 - p_t)^gamma log(p_t), p_t = softmax(logits)[class].

    logits (..., C), C >= 2; classes (...) int64; alpha None or (C,), a weight for each class.
    Returns (...).
    FL defines the two-sided case and calls this extension straightforward; they agree for logits
    (0, x). log(1 - p_t) is the logarithm of the other classes' summed probability, so nothing is
    rounded to 0.
    """
    _check_gamma(gamma)
    if logits.shape[-1] < 2:
        raise ValueError(
            "The softmax over one class is always 1; give logits of at least two classes."
        )
    log_p, log_p_t = _log_softmax_at(logits, classes)
    loss = -log_p_t if alpha is None else -alpha.to(log_p_t)[classes] * log_p_t
    log_error = log_p.scatter(-1, classes.unsqueeze(-1), -math.inf).logsumexp(-1)  # log(1 - p_t)
    return loss if gamma == 0 else torch.exp(gamma * log_error) * loss


# ---- joint losses ----


#: Where RetinaNet's smooth L1 ends to bend: RETINANET.BBOX_REG_BETA of the authors' release
#: (Detectron). Its region proposals, another network's, have 1/9.
BETA = 0.11


def ssd_loss(  # noqa: PLR0913  what the formula reads, and how
    cls_logits: Tensor,
    box_deltas: Tensor,
    classes: Tensor,
    box_targets: Tensor,
    positive: Tensor,
    negative: Tensor,
    loc_weight: float = 1.0,
    n: Tensor | None = None,
    dense: bool | None = None,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """SSD's L = (L_conf + alpha L_loc) / N, in its two summands {"cls", "box"} (SSD eq. 1 to 3).

        L_conf = - sum_Pos log c_hat^class - sum_Neg log c_hat^0
        L_loc  = sum_Pos sum_{cx, cy, w, h} smoothL1(l - g_hat)

    cls_logits (B, A, K+1), channel 0 background; classes (B, A) in 1..K, read only where positive;
    box_deltas, box_targets (B, A, 4); positive, negative (B, A) bool: the matched boxes, the mined
    ones. N is the number of matched default boxes in the batch, not of all; N = 0 makes both 0, and
    the gradient. n: N of all processes that share a batch; this one's losses are then summands of
    the whole batch's. "box" includes loc_weight, the paper's alpha.
    Half precision is summed in float32, also under autocast.
    dense=False looks at the positives and negatives alone; dense=True, what a GPU needs, at all
    anchors, since it would have to tell the host how many those are. None: True but on a CPU.
    class_weights (K,): each positive's log c_hat counts as often as its class's weight says, the
    background's once; N stays as it is.
    """
    used = positive | negative
    if not (dense if dense is not None else not cls_logits.is_cpu):  # (1, n, ...) of those used
        cls_logits, box_deltas, classes, box_targets, positive, used = (
            x[used][None] for x in (cls_logits, box_deltas, classes, box_targets, positive, used)
        )
    classes = torch.where(positive, classes, 0)
    cls = softmax_cross_entropy(at_least_float32(cls_logits), classes)
    if class_weights is not None:
        cls = cls * F.pad(class_weights, (1, 0), value=1.0)[classes]
    box = _box_sum(box_deltas, box_targets, positive, beta=1.0)
    n = positive.sum() if n is None else n
    scale = (n > 0) / n.clamp(min=1)  # 1 / N, or 0 where there is no object
    return {"cls": torch.where(used, cls, 0).sum() * scale, "box": loc_weight * box.sum() * scale}


def retinanet_loss(  # noqa: PLR0913  what the formula reads, and how
    cls_logits: Tensor,
    box_deltas: Tensor,
    classes: Tensor,
    box_targets: Tensor,
    label: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    beta: float = BETA,
    per_image: bool = False,
    n: Tensor | None = None,
    dense: bool | None = None,
    class_weights: Tensor | None = None,
    box_loss: str = "smooth_l1",
) -> dict[str, Tensor]:
    """RetinaNet: focal loss over all anchors but the ignored, smooth L1 over the positive
    (FL section 4).

    cls_logits (B, A, K), no background; classes (B, A) in 0..K-1, read only where positive;
    box_deltas, box_targets (B, A, 4); label (B, A) from Match.  Returns {"cls", "box"}: sums over
    the batch by max(1, positives), so that a picture without objects still teaches through its
    negatives. per_image=True is torchvision's way: every picture by its own positives, then the
    mean of the pictures.
    n: the positives of all processes that share a batch, as in `ssd_loss`; per_image has no use
    for it.
    beta: the paper prints none; the authors' release has 0.11, torchvision L1 (beta 0).
    Half precision is summed in float32, also under autocast.
    dense=False goes through the anchors in parts that stay in a processor's cache; dense=True, what
    a GPU needs, takes all at once. None: True but on a CPU, and under torch.compile.
    class_weights (K,): factors of alpha, the objects' side, for each class; what an anchor says of
    the classes that it does not show counts as before.
    box_loss="giou": box_deltas and box_targets are boxes, xyxy, and `giou_loss` compares them.
    """
    if box_loss not in ("smooth_l1", "giou"):
        raise ValueError(f"box_loss is {box_loss!r}; choose 'smooth_l1' or 'giou'.")
    if dense is None:
        dense = not cls_logits.is_cpu or torch.compiler.is_compiling()
    positive, used = label == POSITIVE, label != IGNORE
    _check_gamma(gamma)
    object_side, background_side = _sides(alpha)
    if class_weights is not None:  # (B, A, 1)
        object_side = object_side * class_weights[torch.where(positive, classes, 0)][..., None]
    logits = at_least_float32(cls_logits)
    share = 1 / _divisors(positive, per_image, n).to(logits.dtype)  # (B, 1)
    cls = _FocalSum.apply(
        logits, classes, positive, used * share, object_side, background_side, gamma, dense
    )
    if box_loss == "giou":
        missed = giou_loss(at_least_float32(box_deltas), at_least_float32(box_targets))
        box = torch.where(positive, missed, 0).sum(1)
    else:
        box = _box_sum(box_deltas, box_targets, positive, beta)
    return {"cls": cls, "box": (box * share[:, 0]).sum()}


def _divisors(positive: Tensor, per_image: bool, n: Tensor | None) -> Tensor:
    """What each picture's sums are divided by, so that they add up to the batch's loss: (B, A) ->
    (B, 1).
    """
    if per_image:
        return len(positive) * positive.sum(1, keepdim=True).clamp(min=1)
    n = positive.sum() if n is None else n
    return n.clamp(min=1).expand(len(positive), 1)


class _FocalSum(torch.autograd.Function):
    """The sum of `sigmoid_focal_loss` against one class or none an anchor, each anchor's times its
    share (B, A): (B, A, K) -> ().

    The same numbers, but neither the K targets of each anchor nor what autograd would keep of each
    step are ever in memory: all entries are taken as background, those of the positives' classes
    are put right after, and the gradient is made along with the loss, some rows at a time, while
    they are in the processor's cache. Fewer rows would mean more steps for which threads have to
    wait for each other. The gradient is the largest tensor of a step: with the divisor among the
    shares it is right as it is, and need not be written a second time to be divided.
    """

    LOGITS_AT_ONCE = 2**18  # 1 MB

    @staticmethod
    def forward(  # noqa: PLR0913  autograd hands over everything in one row
        ctx,
        logits: Tensor,
        classes: Tensor,
        positive: Tensor,
        share: Tensor,  # 0 where an anchor is ignored
        object_side: float | Tensor,
        background_side: float,
        gamma: float,
        dense: bool,
    ) -> Tensor:
        rows, weight = logits.flatten(0, 1), background_side * share.view(-1, 1)  # (BA, K), (BA, 1)
        if dense:
            loss, gradient = _wrong_answer(rows, gamma, weight)
            sums = loss.sum(1)
        else:
            at_once = max(1, _FocalSum.LOGITS_AT_ONCE // max(1, rows.shape[1]))
            sums, gradient = rows.new_empty(len(rows)), torch.empty_like(rows)
            for z, w, total, slope in zip(
                *(x.split(at_once) for x in (rows, weight, sums, gradient))
            ):
                loss, _ = _wrong_answer(z, gamma, w, out=slope)
                torch.sum(loss, 1, out=total)
        at = torch.where(positive, classes, 0)[..., None]  # (B, A, 1)
        z = logits.gather(-1, at)
        (missed, missed_slope), (raised, raised_slope) = (
            _wrong_answer(-z, gamma),
            _wrong_answer(z, gamma),
        )
        share = torch.where(positive, share, 0)[..., None]
        change = (object_side * missed - background_side * raised) * share
        slope = (object_side * missed_slope + background_side * raised_slope) * share
        ctx.dense = dense
        ctx.save_for_backward(gradient.view_as(logits).scatter_add_(-1, at, -slope))
        return sums.sum() + change.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  once_differentiable's type
        ctx, upstream: Tensor
    ):
        (gradient,) = ctx.saved_tensors
        if ctx.dense or upstream != 1:  # a GPU would have to be waited for to look at it
            gradient = gradient * upstream
        return gradient, *(None,) * 7


def _wrong_answer(
    z: Tensor, gamma: float, weight: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Focal loss where a logit of z is wrong, p^gamma softplus(z), and its slope, both times
    `weight`; p = sigmoid(z) = 1 - p_t. out: where the slope goes.
    """
    loss, p = F.softplus(z), z.sigmoid()
    rest = 1 - p
    slope = torch.addcmul(p, rest, loss, value=gamma, out=rest if out is None else out)
    del rest  # slope is p + gamma (1 - p) loss; fewer tensors at once are more pictures on a GPU
    fade = p.mul_(p) if gamma == 2 else torch.sub(z, loss, out=p).mul_(gamma).exp_()  # by log p
    if weight is not None:
        fade = fade.mul_(weight)
    return loss.mul_(fade), slope.mul_(fade)


def _sides(alpha: float | None) -> tuple[float, float]:
    """Weights of objects and of background."""
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha is {alpha}; it weights the positives, and 1 - alpha the rest: give 0 to 1."
        )
    return (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)


def _residual(pred: Tensor, target: Tensor) -> Tensor:
    if pred.shape != target.shape:
        raise ValueError(
            f"pred is {tuple(pred.shape)}, target {tuple(target.shape)}; they must agree."
        )
    return pred - target


def _towards_target(logits: Tensor, targets: Tensor) -> Tensor:
    """z with p_t = sigmoid(z): the logit where the target is 1, its negative where it is 0."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}; give one "
            "0 or 1 for each logit."
        )
    return (2 * targets.to(logits.dtype) - 1) * logits


def _log_softmax_at(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax (..., C) and its entry at the class (...)."""
    if classes.shape != logits.shape[:-1]:
        raise ValueError(
            f"classes have shape {tuple(classes.shape)}, logits {tuple(logits.shape)}; give one "
            "class for each row of logits."
        )
    log_p = F.log_softmax(logits, dim=-1)
    return log_p, log_p.gather(-1, classes.unsqueeze(-1)).squeeze(-1)


def _check_gamma(gamma: float) -> None:
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}; give 0 (cross entropy) or more.")


def _box_sum(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    """Smooth L1 summed over each picture's positive anchors: (B, A, 4) -> (B,). The other rows mean
    nothing and may hold log 0, so they are blanked before the loss: after it, their gradient would
    be inf * 0.
    """
    mask = positive.unsqueeze(-1)
    deltas = torch.where(mask, at_least_float32(deltas), 0)
    targets = torch.where(mask, at_least_float32(targets), 0)
    return smooth_l1_loss(deltas, targets, beta).sum((1, 2))
