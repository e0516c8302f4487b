"""The routes of the server."""

import logging
import pathlib
from typing import Annotated, Any, Literal

import fastapi
from fastapi import exceptions, responses, staticfiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from hypertuning.errors import UserError, one_line
from hypertuning.serving import downloads, schemas, service
from hypertuning.serving.failures import Failure
from hypertuning.serving.service import Service

_STATIC = pathlib.Path(__file__).parent / 'static'
_ERRORS: dict[int | str, dict[str, Any]] = {
  status: {'model': schemas.Error} for status in (400, 404, 413, 422, 503, 504)
}
_log = logging.getLogger(__name__)


def build(served: Service) -> fastapi.FastAPI:
  """The application of a service: its JSON interface, and the page.

  Args:
    served: the service.
  """
  app: fastapi.FastAPI = FastAPIOffline(
    redoc_url=None,
    title='hypertuning',
    description='Makes adapters from examples, and answers with them.',
    responses=_ERRORS,
    swagger_ui_parameters={'validatorUrl': ''},
  )
  app.include_router(_routes(served))
  app.mount('/static', staticfiles.StaticFiles(directory=_STATIC))
  for kind, handler in _HANDLERS.items():
    app.add_exception_handler(kind, handler)
  return app


def _routes(served: Service) -> fastapi.APIRouter:
  routes = fastapi.APIRouter()
  name_in_path = Annotated[str, fastapi.Path(pattern=schemas.NAME)]

  @routes.get('/', include_in_schema=False)
  async def page() -> responses.FileResponse:
    return responses.FileResponse(_STATIC / 'index.html')

  @routes.get('/model')
  async def model() -> schemas.Described:
    """The model, and what the server accepts."""
    return served.describe()

  @routes.post('/adapt')
  async def adapt(request: schemas.Adapt) -> schemas.Adapted:
    """Makes a phi from examples, and keeps it by its name."""
    return await served.adapt(request)

  @routes.post('/answer', response_model=schemas.Answer)
  async def answer(request: schemas.Ask) -> Any:
    """Answers queries; with `stream`, token by token."""
    answers = served.answer(request)
    # An error before the first token has a status of its own.
    first = await anext(answers)
    everything = _chained(first, answers)
    if request.stream:
      return responses.StreamingResponse(
        service.lines(everything), media_type='application/x-ndjson'
      )
    return [one async for one in everything][-1]

  @routes.get('/phi/{name}', response_class=responses.Response)
  async def download(
    name: name_in_path, form: Literal['safetensors', 'peft'] = 'safetensors'
  ) -> responses.Response:
    """A phi as a safetensors file, or as a zip file of a folder for PEFT."""
    phi = served.get(name)
    make = fastapi.concurrency.run_in_threadpool
    if form == 'peft':
      data = await make(downloads.peft, phi, name)
      return _attached(data, f'{name}.zip', 'application/zip')
    data = await make(downloads.safetensors, phi)
    return _attached(data, f'{name}.safetensors', 'application/octet-stream')

  @routes.put(
    '/phi/{name}',
    openapi_extra={
      'requestBody': {
        'required': True,
        'content': {
          'application/octet-stream': {
            'schema': {'type': 'string', 'format': 'binary'}
          }
        },
      }
    },
  )
  async def upload(
    name: name_in_path, request: fastapi.Request
  ) -> schemas.Adapted:
    """Keeps a phi of a safetensors file by a name."""
    return await served.put(name, await request.body())

  return routes


async def _chained(first: Any, rest: Any) -> Any:
  try:
    yield first
    async for one in rest:
      yield one
  finally:
    await rest.aclose()


def _attached(data: bytes, name: str, kind: str) -> responses.Response:
  return responses.Response(
    data,
    media_type=kind,
    headers={'Content-Disposition': f'attachment; filename="{name}"'},
  )


def _error(status: int, message: str) -> responses.JSONResponse:
  headers = {'Retry-After': '1'} if status == 503 else None
  return responses.JSONResponse(
    {'error': one_line(message)}, status, headers=headers
  )


async def _refused(_: fastapi.Request, error: Any) -> responses.JSONResponse:
  return _error(error.status if isinstance(error, Failure) else 400, str(error))


async def _unknown(_: fastapi.Request, error: Any) -> responses.JSONResponse:
  return _error(error.status_code, str(error.detail))


async def _invalid(_: fastapi.Request, error: Any) -> responses.JSONResponse:
  """The first thing that is wrong with a body or an address."""
  first = error.errors()[0]
  if first['type'] == 'json_invalid':
    return _error(
      400,
      f'The body is no JSON: {first["ctx"]["error"]} at {first["loc"][-1]}.',
    )
  where, *path = first['loc']
  place = ''
  for part in path:
    place += f'[{part}]' if isinstance(part, int) else f'.{part}'
  return _error(422, f'{place.lstrip(".") or where}: {first["msg"]}.')


async def _failed(_: fastapi.Request, error: Any) -> responses.JSONResponse:
  _log.error('a request failed', exc_info=error)
  return _error(500, 'The server failed; its log says why.')


_HANDLERS: dict[Any, Any] = {
  UserError: _refused,
  HTTPException: _unknown,
  exceptions.RequestValidationError: _invalid,
  Exception: _failed,
}
