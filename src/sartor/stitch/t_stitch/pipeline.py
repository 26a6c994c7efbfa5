"""T-Stitch in diffusers: a proxy in the place of a pipeline's denoiser; no pipeline is rewritten.

The proxy reads the timesteps from the pipeline's scheduler at each call, so that any scheduler, and
any number of steps, just works. Source: Pan et al., T-Stitch, 2024, arXiv 2402.14167; the official
code rewrites the pipelines instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require
from sartor.stitch.t_stitch.checks import check_configs, check_pipelines
from sartor.stitch.t_stitch.denoiser import StitchedDenoiser
from sartor.stitch.t_stitch.trajectory import check_fractions

__all__ = ["PipelineDenoiser", "stitch_pipeline_", "stitched_pipeline", "unstitch_pipeline_"]

#: where pipelines keep their denoiser
PLACES = ("unet", "transformer")


class PipelineDenoiser(StitchedDenoiser):
    """Stands in for a pipeline's denoiser: config, dtype, device and methods are the largest's.

    If diffusers offloads whole models to the CPU, only the denoiser in use is moved to the device.

    Args:
        denoisers: smallest first.
        fractions: share of the trajectory of each.
        scheduler: returns the pipeline's scheduler as it is now.
        by: ``step`` or ``timestep``.
    """

    def __init__(
        self,
        denoisers: Sequence[nn.Module],
        fractions: Sequence[float],
        scheduler: Callable[[], Any],
        *,
        by: str = "step",
    ) -> None:
        super().__init__(denoisers, fractions, by=by)
        self._scheduler = scheduler
        self._seen: Any = None  # the scheduler's timesteps that were read last
        self._onloaded: nn.Module | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):  # hooks of others are of the module that they were put on
                raise
            return getattr(self.denoisers[-1], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser whose turn it is with just these arguments."""
        timestep: Tensor | float = kwargs["timestep"] if "timestep" in kwargs else args[1]
        self._read(self._scheduler())
        denoiser = self.denoisers[self.model_index(timestep)]
        self._onload(denoiser)
        return denoiser(*args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> PipelineDenoiser:
        """Move all denoisers; but what accelerate's offloading moves before a call, ``forward``
        moves.
        """
        hook = self._offloading()
        if hook is not None and args == (hook.execution_device,):
            return self
        self._onloaded = None
        moved: PipelineDenoiser = super().to(*args, **kwargs)
        return moved

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters; first those that are on the device, as accelerate looks at the first
        only.
        """
        ahead = list(self._onloaded.parameters()) if self._onloaded is not None else []
        yield from ahead
        known = {id(p) for p in ahead}
        yield from (p for p in super().parameters(recurse) if id(p) not in known)

    def _read(self, scheduler: Any) -> None:
        if scheduler.timesteps is not self._seen:
            self._seen = scheduler.timesteps
            self.num_train_timesteps = int(scheduler.config.num_train_timesteps)
            self.set_timesteps(self._seen, int(getattr(scheduler, "order", 1)))

    def _offloading(self) -> Any:
        """Accelerate's hook that moves the whole module before a call, if there is one."""
        hook = self.__dict__.get("_hf_hook")
        if hook is None or not isinstance(hook, require("accelerate.hooks").CpuOffload):
            return None
        return hook

    def _onload(self, denoiser: nn.Module) -> None:
        hook = self._offloading()
        if hook is None or denoiser is self._onloaded:
            return
        if self._onloaded is not None:
            self._onloaded.to("cpu")
        self._onloaded = denoiser.to(hook.execution_device)


def stitch_pipeline_(
    pipe: Any, smaller: Any, fractions: float | Sequence[float], *, by: str = "step"
) -> PipelineDenoiser:
    """Let smaller denoisers take the first steps of a pipeline, in place.

    The pipeline then samples as before: with any scheduler, also one that is set later, any number
    of steps, and classifier-free guidance. Load LoRA weights and the like before.

    Args:
        pipe: a diffusers pipeline with a ``unet`` or a ``transformer``, the largest denoiser.
        smaller: a denoiser, or a whole pipeline whose denoiser is taken, or several of these,
            smallest first. Noise schedules, latent scalings and text encoders can be compared only
            where pipelines are given.
        fractions: the share of steps of the one smaller denoiser, in [0, 1], or one share for each
            denoiser, the pipeline's own last, with sum 1.
        by: ``step`` shares the number of steps out, ``timestep`` the range of the timesteps.

    Returns:
        The proxy; its ``set_fractions`` changes the shares between runs.

    Raises:
        FamilyError: the pipeline has no denoiser, is stitched already or offloads layer by layer,
            or the denoisers differ in latents, conditioning, noise schedule, kind of prediction or
            precision.
        RecipeError: the fractions or the rule are illegal.

    Example:
        >>> proxy = stitch_pipeline_(pipe, small_pipe, 0.4)  # doctest: +SKIP
        >>> images = pipe(class_labels=[207], num_inference_steps=50).images  # doctest: +SKIP
        >>> unstitch_pipeline_(pipe)  # doctest: +SKIP
    """
    place = _place(pipe)
    large = getattr(pipe, place)
    if isinstance(large, PipelineDenoiser):
        raise FamilyError(
            "The pipeline is stitched already; call unstitch_pipeline_ first, or set_fractions on "
            "its denoiser."
        )
    given = list(smaller) if isinstance(smaller, list | tuple) else [smaller]
    pipes = [None if isinstance(one, nn.Module) else one for one in given]
    small = [one if isinstance(one, nn.Module) else getattr(one, _place(one)) for one in given]
    shares = [fractions, 1 - fractions] if isinstance(fractions, int | float) else list(fractions)
    check_fractions(shares, len(small) + 1)
    check_configs([*small, large])
    check_pipelines(pipes, pipe)
    proxy = PipelineDenoiser([*small, large], shares, lambda: pipe.scheduler, by=by)
    _swap(pipe, place, proxy.train(large.training))
    return proxy


def unstitch_pipeline_(pipe: Any) -> None:
    """Give a pipeline its own denoiser back.

    Raises:
        FamilyError: it is not stitched.
    """
    place = _place(pipe)
    proxy = getattr(pipe, place)
    if not isinstance(proxy, PipelineDenoiser):
        raise FamilyError("The pipeline is not stitched; call stitch_pipeline_ first.")
    _swap(pipe, place, proxy.denoisers[-1])


@contextmanager
def stitched_pipeline(
    pipe: Any, smaller: Any, fractions: float | Sequence[float], *, by: str = "step"
) -> Iterator[Any]:
    """Stitch a pipeline inside a ``with`` block, and restore it afterwards.

    Arguments and errors are those of :func:`stitch_pipeline_`.

    Example:
        >>> with stitched_pipeline(pipe, small_pipe, 0.4) as faster:  # doctest: +SKIP
        ...     images = faster(prompt, num_inference_steps=50).images
    """
    stitch_pipeline_(pipe, smaller, fractions, by=by)
    try:
        yield pipe
    finally:
        unstitch_pipeline_(pipe)


def _place(pipe: Any) -> str:
    for place in PLACES:
        if isinstance(getattr(pipe, place, None), nn.Module):
            return place
    raise FamilyError(
        f"A {type(pipe).__name__} has no unet and no transformer to stitch; give a diffusers "
        "pipeline that has one, or wrap the denoisers in a StitchedDenoiser."
    )


def _swap(pipe: Any, place: str, denoiser: nn.Module) -> None:
    """Exchange the denoiser; an offloading of whole models is set up again, as it hooks them."""
    offloads = bool(getattr(pipe, "_all_hooks", []))
    if not offloads and any(hasattr(m, "_hf_hook") for m in getattr(pipe, place).modules()):
        raise FamilyError(
            "The pipeline's denoiser has hooks, such as those of enable_sequential_cpu_offload; "
            "call pipe.remove_all_hooks() first, and enable the offloading again afterwards."
        )
    if offloads:
        pipe.remove_all_hooks()
    setattr(pipe, place, denoiser)
    if offloads:
        pipe.enable_model_cpu_offload(device=pipe._offload_device)
