"""Denoising over HTTP on Ray Serve: the API and its page."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import json
import os
import secrets
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

import ray
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from raygan.config.service import MOST_STRENGTH, Service
from raygan.errors import InputError
from raygan.weights import NAMES

TOKEN = "RAYGAN_SERVE_TOKEN"
"""Environment variable of the token that requests must have."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY = ("0.0.0.0", "::")
"""What stands for all addresses of this machine."""
CORES = 4
"""Cores of a replica without a GPU, if the machine has as many: more speed up a network on one tile little."""
CONCURRENT = 4
"""Requests that a replica works on: some read and write files while the network computes for others."""
RETRIES = 3
"""How often a request is repeated whose replica was lost."""
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".tif": "image/tiff"}
Format = Literal["jpg", "png", "webp", "tif"]
QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)


@dataclass(frozen=True)
class Denoised:
    """What a replica made of an image file."""

    suffix: str = ""
    content: bytes = b""
    notes: tuple[str, ...] = ()
    problem: str = ""
    """What is wrong with the image file; empty: nothing."""


class Api:
    """What answers HTTP requests; it hands images to the replicas that compute."""

    def __init__(self, service: Service, denoising: DeploymentHandle[Any], hosts: tuple[str, ...], token: str) -> None:
        """`hosts` are the only values of the Host header that are served; empty: all. An empty token: none needed."""
        self.service = service
        self.denoising = denoising
        self.hosts = hosts
        self.token = token
        self.names = tuple(map(name_of, service.denoisers))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application that Ray Serve runs."""
        api = FastAPI(title="RayGAN", summary="Image denoising", version=version("raygan"))
        api.middleware("http")(self.guard)
        api.exception_handler(RequestValidationError)(_out_of_range)
        api.get("/", response_class=HTMLResponse, include_in_schema=False)(_page)
        api.get("/service", dependencies=[Depends(self.authorize)])(self.describe)
        file = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "required": True}
        images = {"content": {kind: {} for kind in MEDIA_TYPES.values()}, "description": "The denoised image"}
        api.post(
            "/denoise",
            dependencies=[Depends(self.authorize)],
            response_class=Response,
            responses={200: images, **{status: {"description": text} for status, text in STATUS.items()}},
            openapi_extra={"requestBody": file},
        )(self.denoise)
        return api

    async def guard(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse pages of other sites, which reach this machine by a name that leads here (DNS rebinding)."""
        host = request.headers.get("host", "")
        # That of a page without a site of its own, such as a file, is "null".
        origin = request.headers.get("origin")
        if (self.hosts and host not in self.hosts) or (origin is not None and urlsplit(origin).netloc != host):
            return JSONResponse({"detail": "this service answers its own pages only"}, status_code=403)
        return await call_next(request)

    async def authorize(self, request: Request) -> None:
        """Refuse requests without the token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise HTTPException(401, "give the service's token: Authorization: Bearer TOKEN")

    async def describe(self) -> dict[str, Any]:
        """The denoisers that are offered, the default first, and the limits."""
        limits = {name: getattr(self.service, name) for name in ("max_megapixels", "max_megabytes", "max_seconds")}
        return {"denoisers": self.names, "max_strength": MOST_STRENGTH, **limits}

    async def denoise(
        self,
        request: Request,
        denoiser: Annotated[str, Query(description="Name of a denoiser; empty: the default")] = "",
        strength: Annotated[float, Query(ge=0, le=MOST_STRENGTH, description="Share of the noise to remove")] = 1.0,
        format: Annotated[Format | None, Query(description="Format of the result; none: that of the image")] = None,
    ) -> Response:
        """Denoise the JPEG, PNG, TIFF or WebP image that is the request's body.

        Bit depth, alpha, colour profile and other metadata are kept, as by `raygan denoise`. The header `X-Notes` is a
        URL-encoded JSON list of what was not kept, and of noise that was left.
        """
        name = denoiser or self.names[0]
        if name not in self.names:
            raise HTTPException(404, f"there is no denoiser {name!r}; there are {', '.join(self.names)}")
        content = await self._body(request)
        try:
            computed = self._computed(content, name, strength, f".{format}" if format else "")
            denoised = await asyncio.wait_for(computed, self.service.max_seconds)
        except TimeoutError as error:
            raise HTTPException(504, f"it took longer than {self.service.max_seconds:g} s") from error
        except RayActorError as error:
            raise HTTPException(503, "the processes that compute were lost: try again later") from error
        except BackPressureError as error:
            raise HTTPException(503, "too many images wait: try again later", {"Retry-After": "5"}) from error
        if denoised.problem:
            raise HTTPException(422, denoised.problem)
        notes = {"X-Notes": quote(json.dumps(denoised.notes))}
        return Response(denoised.content, media_type=MEDIA_TYPES[denoised.suffix], headers=notes)

    async def _body(self, request: Request) -> bytes:
        """The request's body, never much more of it than the limit."""
        content, most = bytearray(), self.service.max_megabytes * 10**6
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise HTTPException(413, f"at most {self.service.max_megabytes} megabytes are read")
        return bytes(content)

    async def _computed(self, content: bytes, name: str, strength: float, suffix: str) -> Denoised:
        for _ in range(RETRIES):
            with contextlib.suppress(RayActorError):
                return await self._denoised(content, name, strength, suffix)
        return await self._denoised(content, name, strength, suffix)

    async def _denoised(self, content: bytes, name: str, strength: float, suffix: str) -> Denoised:
        result: Denoised = await self.denoising.denoise.remote(content, name, strength, suffix)
        return result


STATUS = {
    401: "The token is missing or wrong",
    403: "The request comes from a page of another site, or by another name of this machine",
    404: "There is no such denoiser",
    413: "The file is too large",
    422: "It is no image that can be denoised, or a parameter is out of range",
    503: "Too many images wait, or the processes that compute were lost",
    504: "It took too long",
}
"""Statuses of `/denoise` besides 200."""


def name_of(denoiser: str) -> str:
    """What a denoiser is called in requests: the end of its path, or a study's name for its `best`."""
    *_, parent, name = ["", *denoiser.rstrip("/").split("/")]
    return parent if name == "best" and parent else name


async def _out_of_range(_: Request, error: RequestValidationError) -> JSONResponse:
    """As all other errors: a text, not FastAPI's list of objects."""
    texts = [f"{one['loc'][-1]}: {one['msg']}, but got {one['input']!r}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(texts)}, status_code=422)


async def _page() -> str:
    return Path(__file__).with_name("serve.html").read_text()


def _check(service: Service) -> None:
    """Raise `InputError` unless all denoisers can be loaded and told apart: replicas would fail to start."""
    from raygan.inference.denoiser import Denoiser

    if len(set(map(name_of, service.denoisers))) < len(service.denoisers):
        raise InputError(f"--denoisers must have different names, but they are {', '.join(service.denoisers)}")
    for one in service.denoisers:
        Denoiser.from_pretrained(one, device="cpu")


def _application(service: Service, hosts: tuple[str, ...], token: str) -> serve.Application:
    """The Serve application, sized for the cluster that it is built on; raises `InputError` without a GPU it needs."""
    # Here, since the processes that answer requests need no torch.
    from raygan.inference.replica import Denoising

    available = ray.cluster_resources()
    gpus = int(available.get("GPU", 0)) if service.device != "cpu" else 0
    if service.device == "cuda" and not gpus:
        raise InputError("the cluster has no GPU: give --device cpu or auto")
    cores = min(CORES, int(max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])))
    replicas = max(1, gpus or int(available["CPU"]) // cores)
    denoising = serve.deployment(Denoising).options(
        ray_actor_options={"num_cpus": 1, "num_gpus": 1} if gpus else {"num_cpus": cores},
        max_ongoing_requests=CONCURRENT,
        max_queued_requests=service.max_queued,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": replicas,
            "target_ongoing_requests": CONCURRENT / 2,
        },
        logging_config=QUIET,
    )
    api = serve.deployment(serve.ingress()(Api)).options(
        ray_actor_options={"num_cpus": 0},
        # More than are computed or wait, so that the others are refused.
        max_ongoing_requests=2 * (service.max_queued + CONCURRENT * replicas),
        logging_config=QUIET,
    )
    application: serve.Application = api.bind(service, denoising.bind(service, cores), hosts, token)
    return application


def application(settings: dict[str, Any]) -> serve.Application:
    """The Serve application of a config file such as `cluster/serve.yaml`, whose `args` are those of a `Service`.

    The token is that of the environment variable RAYGAN_SERVE_TOKEN. Raises `InputError` without it.
    """
    if not (token := os.environ.get(TOKEN)):
        raise InputError(f"set {TOKEN} on the machine where the application is built: requests must have that token")
    try:
        service = Service(**{**settings, "denoisers": tuple(settings.get("denoisers", Service.denoisers))})
    except TypeError as error:
        raise InputError(f"in the application's args: {error}") from error
    _check(service)
    return _application(service, (), token)


def run_service(service: Service, host: str, port: int) -> None:
    """Serve until Ctrl-C. On an address other than loopback, requests must have a token: see `TOKEN`.

    Raises `InputError` if the port is in use, a denoiser cannot be loaded, or the cluster has a Serve of its own.
    """
    from raygan.train.cluster import start_ray

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}; give another --host or --port") from error
    is_local = host in LOOPBACK
    # An empty variable is none: it must not open the service to everyone.
    token = os.environ.get(TOKEN) or ("" if is_local else secrets.token_urlsafe(16))
    # Browsers leave HTTP's own port out.
    ports = (f":{port}", "") if port == 80 else (f":{port}",)
    hosts = tuple(name + end for name in ("127.0.0.1", "localhost", "[::1]") for end in ports) if is_local else ()
    _check(service)
    service = _with_absolute_paths(service)
    print("Starting…", flush=True)
    start_ray()
    if serve.status().proxies:
        # It would keep its own address, which may be open to others.
        raise InputError(
            "Ray Serve runs on this cluster already: end it with serve shutdown, or use cluster/serve.yaml"
        )
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=QUIET)
    try:
        serve.run(_application(service, hosts, token), name="raygan", logging_config=QUIET)
        # An address that stands for all of this machine's is none that others could open.
        name = socket.gethostname() if host in EVERY else f"[{host}]" if ":" in host else host
        page = f"http://{name}:{port}/"
        print(f"{page}{f'#token={token}' if token else ''}  drop an image on this page\n{page}docs  the HTTP API")
        print("Ctrl-C ends it.", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        # Serve kills its controller, and Ray prints that a task of it failed.
        with contextlib.redirect_stdout(io.StringIO()):
            serve.shutdown()


def _with_absolute_paths(service: Service) -> Service:
    """The same service for processes that run in other folders."""

    def absolute(one: str) -> str:
        return str(Path(one).absolute()) if one not in NAMES and Path(one).exists() else one

    return replace(service, denoisers=tuple(map(absolute, service.denoisers)))
