"""Names of well-known Python packages, for errors about names that an index or a venv does not know."""

from __future__ import annotations

import difflib
import re
from typing import Dict, Optional

PACKAGES_OF_MODULES: Dict[str, str] = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cairo": "pycairo",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "jose": "python-jose",
    "jwt": "pyjwt",
    "magic": "python-magic",
    "mysqldb": "mysqlclient",
    "openssl": "pyopenssl",
    "osgeo": "gdal",
    "pil": "pillow",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "usb": "pyusb",
    "win32api": "pywin32",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
"""The package of each module whose name is another one, in lower case."""

_COMMON = """
accelerate aiohttp altair anyio arrow asyncpg attrs beautifulsoup4 black bokeh boto3 cachetools catboost celery
certifi cffi charset-normalizer click cryptography cython dask datasets django docker duckdb e2b-charts fastapi
fastparquet filelock flask geopandas gensim grpcio gunicorn h5py httpx hypothesis idna ipykernel ipython jax jinja2
joblib jsonschema keras langchain lightgbm llvmlite lxml markdown matplotlib mpmath msgpack msgspec mypy nbformat
networkx nltk numba numexpr numpy openai opencv-python-headless openpyxl orjson packaging pandas paramiko pillow
plotly polars protobuf psutil psycopg pyarrow pydantic pygments pymongo pymysql pyparsing pypdf pytest python-dateutil
pytz pyyaml redis regex reportlab requests rich ruff scikit-image scikit-learn scipy seaborn selenium sentencepiece
setuptools shapely six spacy sqlalchemy starlette statsmodels streamlit sympy tensorflow tiktoken tokenizers torch
torchvision tornado tqdm transformers typer typing-extensions tzdata urllib3 uvicorn websockets xarray xgboost xlrd
xlsxwriter
"""


def find_package(module: str) -> str:
    """Return the package of a top-level module; for modules that are not in the table, the module's own name."""
    return PACKAGES_OF_MODULES.get(module.lower(), module)


def find_similar(package: str) -> Optional[str]:
    """Return the well-known package that a wrong name may mean: the package of this module, or a similar name."""
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name in PACKAGES_OF_MODULES:
        return PACKAGES_OF_MODULES[name]
    similar = difflib.get_close_matches(name[:80], _COMMON.split(), 1, cutoff=0.75)
    return similar[0] if similar and similar[0] != name else None
