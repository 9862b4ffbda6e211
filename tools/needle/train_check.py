"""Every kernel of training against plain torch in double precision: values and gradients."""

import dataclasses

import torch
import torch.nn.functional as F

import shapes
import tasks
import train_kernels as kernels_of
import train_model

# Relative errors in the Euclidean norm. bf16 rounds each element to 2^-9; in the whole model such
# errors add up over the layers and come back through the gradients.
FLOAT_MAX, NARROW_MAX, NARROW_MODEL_MAX = 5e-6, 4e-3, 2e-2
# Besides heads of 32 in groups of two: no groups, other sizes, the largest head.
HEADS = ((4, 2, 32), (4, 4, 64), (3, 1, 128))


def relative_error(values, truth):
    return float((values.double() - truth).norm() / truth.norm())


def compare(function, plain, inputs, element_inputs):
    """The largest relative error of output and gradients. Inputs whose index is among
    element_inputs, and the output's gradient, are elements: rounded for both."""
    ours = [x.clone().requires_grad_() for x in inputs]
    truth = [x.double().requires_grad_() for x in inputs]
    out, wanted = function(*ours), plain(*truth)
    d_out = torch.randn(wanted.shape).to(out.dtype)
    out.backward(d_out)
    wanted.backward(d_out.double())
    errors = [relative_error(out.detach(), wanted.detach())]
    errors += [relative_error(x.grad, y.grad) for x, y in zip(ours, truth)]
    assert all(ours[i].grad.dtype == out.dtype for i in element_inputs)
    return max(errors)


def check_attention(kernels):
    errors = []
    for n_heads, n_kv_heads, d_head in HEADS:
        shape = shapes.Shape(64, 1, n_heads, n_kv_heads, d_head, 64)
        for n_tokens in (64, 192, 320):
            qkv = torch.randn(2, n_tokens, (n_heads + 2 * n_kv_heads) * d_head)
            bias = 3 * torch.rand(2, n_tokens)
            positions = torch.randint(0, 1000, (2, n_tokens)).cumsum(1)
            angles = kernels.make_angles(positions, shape.rope_base, d_head)
            errors.append(compare(
                lambda x: kernels_of.Attend.apply(kernels, x, angles, bias, shape.heads(),
                                                  train_model.NEAR),
                lambda x: train_model.plain_attend(x, positions, bias.double(), shape),
                [qkv.to(kernels.element)], [0]))
    return max(errors)


def check_norm(kernels):
    """With and without a second summand, and with the sum used later on."""
    x, weight = torch.randn(3, 64, 80), 1 + 0.1 * torch.randn(80)
    y = torch.randn(3, 64, 80).to(kernels.element)

    def ours(x, y, weight):
        total, out = kernels_of.AddNorm.apply(kernels, x, y, weight, shapes.EPSILON)
        return out + total.to(out.dtype)

    def plain(x, y, weight):
        return train_model.plain_norm(x + y, weight) + x + y
    alone = compare(
        lambda x, weight: kernels_of.AddNorm.apply(kernels, x, None, weight, shapes.EPSILON)[1],
        train_model.plain_norm, [x, weight], [])
    return max(alone, compare(ours, plain, [x, y, weight], [1]))


def check_swiglu(kernels):
    gate_up = (6 * torch.randn(3, 64, 160)).to(kernels.element)
    return compare(lambda x: kernels_of.SwiGLU.apply(kernels, x),
                   lambda x: F.silu(x[..., :80]) * x[..., 80:], [gate_up], [0])


def check_cross_entropy(kernels):
    logits = (4 * torch.randn(2, 64, 258)).to(kernels.element)
    targets = torch.randint(0, 258, (2, 64))
    weights = torch.rand(2, 64) * (torch.rand(2, 64) < 0.5) / 64
    ours = logits.clone().requires_grad_()
    truth = logits.double().requires_grad_()
    total, losses, right = kernels_of.CrossEntropy.apply(kernels, ours, targets, weights)
    wanted = F.cross_entropy(truth.flatten(0, 1), targets.flatten(), reduction="none")
    total.backward()
    (wanted * weights.flatten()).sum().backward()
    used = weights.flatten() > 0
    same = (logits.argmax(-1) == targets).flatten()
    assert bool((right == (same & used)).all())
    return max(relative_error(ours.grad, truth.grad),
               relative_error(losses[used], wanted.detach()[used]))


def check_model(kernels, name):
    """The loss of a batch and its gradient by every weight, with two layers."""
    recipe = tasks.Recipe(192, 3, {"repeat": 1, "niah": 2, "filler": 1}, 0.05, 1, 100000, 4)
    batch = train_model.to_tensors(tasks.make_batch(1, recipe))
    model = train_model.Model(dataclasses.replace(shapes.SHAPES[name], n_layers=2), 1)
    plain = {key: value.detach().double().requires_grad_()
             for key, value in model.weights.items()}
    total, _, _ = train_model.loss(model, kernels, batch)
    total.backward()
    wanted = train_model.plain_loss(plain, model.shape, batch)
    wanted.backward()
    errors = [relative_error(total.detach(), wanted.detach())]
    errors += [relative_error(weight.grad, plain[key].grad)
               for key, weight in model.weights.items()]
    return max(errors)


def run(folder):
    """Prints a line for each kernel and way of building it; returns whether all are near."""
    checks = {"attention": check_attention, "norm": check_norm, "swiglu": check_swiglu,
              "cross entropy": check_cross_entropy}
    checks.update((f"model {name}", lambda kernels, name=name: check_model(kernels, name))
                  for name in shapes.SHAPES)
    best = list(kernels_of.SIMD).index(kernels_of.choose_simd())
    good = True
    for simd in list(kernels_of.SIMD)[best:]:
        for narrow in (False, True) if kernels_of.choose_narrow() else (False,):
            kernels = kernels_of.Kernels(folder, simd, narrow)
            for name, check in checks.items():
                torch.manual_seed(1)
                error = check(kernels)
                bound = (FLOAT_MAX if not narrow else
                         NARROW_MODEL_MAX if name.startswith("model") else NARROW_MAX)
                near = error < bound
                good = good and near
                print(f"{simd:7} {'bf16' if narrow else 'float':5} {name:14} error {error:.1e} "
                      f"(below {bound:.0e}) {'good' if near else 'BAD'}")
    return good
