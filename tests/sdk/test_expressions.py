"""Expressions of numpy, pandas and containers mean the same on proxies as in the session itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from harness.stack import SharedStacks

import venvd

SETUP = """
import collections, datetime, decimal, fractions, math
import numpy as np
import pandas as pd
def make():
    frame = pd.DataFrame({"a": [3, 1, 2], "b": [1.26, 2.54, None], "c": ["x", "y", "x"]}, index=["p", "q", "r"])
    return dict(
        np=np, pd=pd, math=math, df=frame, series=frame["a"], words=frame["c"],
        vector=np.array([3.25, 1.5, 2.75]), whole=np.arange(6), matrix=np.arange(6.0).reshape(2, 3),
        square=np.array([[2.0, 1.0], [1.0, 3.0]]), mask=np.array([True, False, True]),
        numbers=[3, 1, 2], names={"a": 1, "b": 2}, letters={"x", "y"}, pair=(1, "two"), text="Hello, world",
        queue=collections.deque([1, 2, 3]), counter=collections.Counter("abca"), half=fractions.Fraction(1, 2),
        price=decimal.Decimal("2.675"), day=datetime.date(2024, 2, 29), zero=0, real=2.5, imaginary=1 + 2j, data=b"abc",
    )
locals().update(make())
def same(one, other):
    if isinstance(one, (pd.DataFrame, pd.Series, pd.Index)):
        return type(one) is type(other) and one.equals(other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.generic) and not isinstance(other, np.generic):
        one = one.item()  # scalars of numpy arrive as Python's
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one.items()), list(other.items()))
    if repr(one) == repr(other):
        return True
    return type(one) is type(other) and bool(one == other)
"""
VALUES = """
vector matrix whole square numbers real imaginary half price zero series df text names letters pair queue
counter data words day mask
""".split()  # noqa: SIM905 - shorter than a list
UNARY = (
    """
-{}|+{}|~{}|abs({})|round({})|round({}, 1)|math.floor({})|math.ceil({})|math.trunc({})|len({})|bool({})|int({})
float({})|complex({})|str({})|repr({})|list({})|tuple({})|hash({})|sorted({})|list(reversed({}))|min({})|sum({})
dict({})|set({})|format({}, '')
""".strip()
    .replace("\n", "|")
    .split("|")
)
BINARY = (
    """
{} + 2|2 + {}|{} - 1|1 - {}|{} * 3|{} / 2|2 / ({} + 1)|{} // 2|{} % 2|{} ** 2|2 ** {}|divmod({}, 2)|{} > 1|{} <= 2
{} == 2|{} != 2|1 in {}|{}[0]|{}[-1]|{}[0:2]
""".strip()
    .replace("\n", "|")
    .split("|")
)
WRITTEN = """
np.sum(vector)
np.sqrt(vector)
np.add(vector, 1)
np.add.reduce(vector)
np.add.outer(vector, vector)
np.maximum(vector, 2)
np.concatenate([vector, vector])
np.stack([vector, vector], axis=1)
np.where(vector > 2, vector, 0)
np.dot(matrix, vector)
matrix @ vector
matrix.T
matrix[:, 1]
matrix[1, ::2]
matrix[..., 0]
matrix[matrix > 2]
matrix[None, 0]
vector[mask]
vector[[0, 2]]
whole[slice(1, 4)]
whole[whole % 2 == 0]
matrix.sum(axis=0)
matrix.mean(1)
matrix.reshape(3, 2)
matrix.astype(int)
matrix.astype("int32")
matrix.tolist()
matrix.shape
matrix.dtype
vector.max()
vector.argmax()
vector.cumsum()
vector.round(1)
vector.std(ddof=1)
np.linalg.inv(square)
np.linalg.norm(vector)
np.linalg.solve(square, np.ones(2))
np.linspace(0, 1, 5)
np.zeros((2, 2), dtype=float)
np.arange(3, dtype=np.float32)
np.unique([1, 1, 2])
np.percentile(vector, 50)
np.histogram(vector, bins=2)
np.array_equal(vector, vector)
np.isclose(vector, vector).all()
np.clip(vector, 2, 3)
np.sort(vector)
np.argsort(vector)
np.outer(vector, vector)
np.einsum("ij,j->i", matrix, vector)
np.apply_along_axis(sum, 0, matrix)
np.shape(matrix)
np.size(matrix)
np.ndim(matrix)
np.eye(2)
np.full(3, 7)
np.datetime64("2024-01-01") + np.timedelta64(1, "D")
pd.DataFrame(np.eye(2))
pd.DataFrame({"a": [1, 2]})
pd.Series([1, 2], name="s")
pd.concat([df, df])
pd.to_datetime(["2024-01-01"])
pd.Timestamp("2024-01-01") + pd.Timedelta(days=1)
pd.merge(df, df, on="a")
df["a"]
df[["a", "b"]]
df.a
df.loc["p"]
df.loc["p", "a"]
df.loc[:, "a"]
df.loc[df["a"] > 1, ["a", "c"]]
df.iloc[0]
df.iloc[0:2, 1]
df[df["a"] > 1]
df[df.c == "x"]
df["a"] + df["b"]
df["a"].sum()
df["b"].mean()
df["b"].isna().sum()
df.describe()
df.round(1)
round(df[["a", "b"]], 1)
df.sort_values("a")
df.sort_values("a", ascending=False)
df.groupby("c")["a"].sum()
df.groupby("c").agg({"a": "sum"})
df.groupby("c")["a"].agg(sum)
df.groupby("c").size()
df.shape
df.columns
df.columns.tolist()
df.index
df.dtypes
df.head(2)
df.tail(1)
df.T
df.fillna(0)
df.dropna()
df.rename(columns={"a": "z"})
df.drop(columns="a")
df.drop(columns=["a", "b"])
df.assign(d=df["a"] * 2)
df["a"].apply(math.sqrt)
df["a"].map({3: 1, 1: 2, 2: 3})
df["a"].map(str)
df[["a", "b"]].apply(max)
df[["a", "b"]].agg(["min", "max"])
df.astype({"a": float})
df["a"].astype(float)
df["c"].str.upper()
df["c"].str.contains("x")
df["c"].value_counts()
df["c"].unique()
df["a"].isin([1, 2])
df["a"].isin(range(3))
df["a"].between(1, 2)
df["a"].where(df["a"] > 1, 0)
df["a"].clip(1, 2)
df["a"].cumsum()
df["a"].shift(1)
df["a"].diff()
df["a"].rank()
df["a"].quantile(0.5)
df["a"].nlargest(2)
df["a"].idxmax()
df["a"].to_dict()
df["a"].tolist()
df["a"].to_numpy()
df.to_dict("records")
df.to_csv()
df.pivot_table(index="c", values="a", aggfunc="sum")
df.melt(id_vars="c", value_vars=["a"])
df.set_index("c")
df.reset_index()
df.query("a > 1")
df.eval("a + 1")
df.select_dtypes("number")
df.empty
df.equals(df)
df.corr(numeric_only=True)
df["b"].corr(df["a"])
df.nunique()
df.isna().any()
df[["a", "b"]].apply(sum, axis=1)
df.pipe(len)
len(df)
"a" in df
list(df)
list(df["a"])
[row for row in df["c"]]
(df["a"] > 1) & (df["c"] == "x")
~(df["a"] > 1)
-df["a"]
df["a"] @ df["a"]
series.loc["p"]
series["p"]
series.index
series.values
series.name
words.str.len()
np.sqrt(series)
np.mean(df["a"])
numbers.index(2)
numbers.count(1)
numbers + [4]
numbers * 2
[0] + numbers
numbers[1:]
numbers[::-1]
sorted(numbers, reverse=True)
max(numbers)
sum(numbers)
any(numbers)
all(numbers)
list(map(str, numbers))
list(zip(numbers, names))
dict(zip(numbers, numbers))
list(enumerate(numbers))
{**names}
[*numbers, 4]
names["a"]
names.get("c", 5)
list(names.items())
list(names.keys())
names | {"c": 3}
"a" in names
dict(names)
letters | {"z"}
letters & {"x"}
letters - {"x"}
letters ^ {"x", "z"}
{"x"} <= letters
letters.isdisjoint({"q"})
pair + (3,)
pair.index("two")
text.upper()
text[0:5]
text.split(", ")
text + "!"
text * 2
"world" in text
text.replace("l", "L")
text.startswith(("Hello", "x"))
f"{text:>20}"
f"{real:.1f}"
"%s" % text
text.encode()
data.decode()
data[0]
data + b"d"
queue.maxlen
queue[1]
list(queue)
2 in queue
counter.most_common(1)
counter["a"]
counter + counter
half + half
half * 2
half < 1
1 - half
half.numerator
half.limit_denominator(10)
round(price, 2)
price.quantize(price)
pow(3, 4, 5)
pow(whole, 2)
day.year
day.isoformat()
day.replace(day=1)
imaginary.conjugate()
imaginary.real
real.is_integer()
real.as_integer_ratio()
""".strip().splitlines()
EXPRESSIONS = [
    *WRITTEN,
    *(form.format(value) for value in VALUES for form in (UNARY + BINARY)),
]


@pytest.fixture(scope="module")
def session(stacks: SharedStacks) -> Iterator[venvd.Session]:
    running = stacks.backend(stacks.stack("local", "pyarrow", "pandas", "polars"), "pipe")
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        session.exec(SETUP)
        yield session


def evaluate(expression: str, names: dict[str, Any]) -> tuple[Any, str]:
    """Return the value of an expression, and the name of the error that it raised."""
    try:
        return eval(expression, names), ""  # noqa: S307 - the expressions of this file
    except venvd.UserError as error:
        return None, str(error.error_type)
    except Exception as error:  # noqa: BLE001 - the error is what is compared
        return None, type(error).__name__


@pytest.mark.slow
def test_expressions_mean_the_same(session: venvd.Session) -> None:
    """More than 1,000 expressions give the value, or the error, that they give in the session."""
    expected = session.eval(
        """
def evaluate(expression):
    try:
        return eval(expression, {**make(), "math": math}), ""
    except Exception as error:
        return None, type(error).__name__
found = [evaluate(expression) for expression in expressions]
[error for _, error in found]
""",
        expressions=EXPRESSIONS,
    )
    names = {name: session.eval(f"make()[{name!r}]", proxy=True) for name in session.eval("list(make())")}
    names["math"] = math
    wrong, values = [], []
    for expression, there in zip(EXPRESSIONS, expected, strict=True):
        value, error = evaluate(expression, names)
        values.append(None if error or there else value)
        if error != there:
            wrong.append(f"{expression}: {error or repr(value)} instead of {there or 'a value'}")
    compare = "[i for i, ((one, error), value) in enumerate(zip(found, values)) if not error and not same(one, value)]"
    for position in session.eval(compare, values=values):
        if expected[position] == "" and EXPRESSIONS[position] not in "".join(wrong):
            there = session.eval("repr(found[_i][0])", _i=position)
            wrong.append(f"{EXPRESSIONS[position]}: {values[position]!r} instead of {there}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(EXPRESSIONS)}", *wrong])
