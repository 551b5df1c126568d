"""Suites, rows and cells; the shipped settings fit the methods that they name."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from subspan.bench.codes import learn_codes
from subspan.bench.published import load_published
from subspan.bench.settings import SUITES, cells, choose_rows, load_suite, parse_suite
from subspan.errors import DataNotFoundError, InvalidInputError
from subspan.methods import METHODS, get_method

DATA = '[[data]]\nname = "d"\nn_clusters = 2\n'
ROW = '[[row]]\nname = "r"\nmethod = "kmeans"\n'


@pytest.mark.parametrize("name", SUITES)
def test_shipped_suites_have_distinct_cells_with_parameters_that_exist(name):
    suite = load_suite(name)
    found = cells(suite, range(2))
    assert len({cell.key for cell in found}) == len(found) > 0
    for cell in found:
        assert set(cell.codes) <= set(inspect.signature(learn_codes).parameters)
        if cell.method in METHODS:
            method = get_method(cell.method)
            method(**cell.parameters)  # TypeError for a parameter that does not exist
            assert not {"n_clusters", "random_state", "device"} & set(cell.parameters)
        named = {*cell.parameters, *(f"codes.{key}" for key in cell.codes)}
        named |= {f"pretraining.{key}" for key in cell.pretraining}
        assert set(cell.sources) == named, "a value without a source"


def test_suites_of_the_paper_name_every_method_and_quick_runs_all_that_are_registered():
    wanted = {"ncsc", "kmeans", "sae-km", "cae-km", "lsr", "ssc", "ssc-omp", "lrr", "kssc", "dsc-net", "k-scn"}
    wanted |= {"dec", "idec", "dcn", "dac", "infogan", "clustergan"}
    for name in ("table1", "table2", "table3", "cpu"):
        assert {row.method for row in load_suite(name).rows} == wanted
    assert {row.method for row in load_suite("quick").rows} >= wanted | set(METHODS)
    assert [data.name for data in load_suite("small").data] == ["orl", "coil20", "eyaleb", "usps"]


def test_methods_with_n_by_n_matrices_get_ten_thousand_samples():
    limits = {row.method: row.transductive for row in load_suite("table1").rows}
    assert limits["ssc"]
    assert limits["dsc-net"]
    assert not limits["ncsc"]
    found = {cell.method: cell.max_samples for cell in cells(load_suite("table1"), [0])}
    assert found["ssc"] == 10_000
    assert found["ncsc"] is None


def test_rows_without_a_budget_of_their_own_share_their_lines_with_the_tables():
    keys = {cell.key for name in ("table1", "table2") for cell in cells(load_suite(name), [0])}
    other = {cell.row for cell in cells(load_suite("cpu"), [0]) if cell.key not in keys}
    assert other == {"sae-km", "dec", "idec", "dcn", "dac", "infogan", "clustergan"}


def test_pretraining_names_a_method():
    row = DATA + '[[row]]\nname = "a"\nmethod = "dec"\nsettings = [{ source = "default", pretraining = { %s } }]'
    with pytest.raises(InvalidInputError, match="pretraining"):
        parse_suite("s", 'title = "t"\nrows = ["a"]\n' + row % 'methd = "sae-km"')
    assert parse_suite("s", 'title = "t"\nrows = ["a"]\n' + row % 'method = "sae-km"').rows[0].settings[0].pretraining


def test_dec_and_its_kin_share_one_auto_encoder():
    kin = [cell for cell in cells(load_suite("cpu"), [0]) if cell.row in ("sae-km", "dec", "idec", "dcn")]
    assert len({str(cell.pretraining) for cell in kin}) == 1
    assert len({cell.setting for cell in kin}) == 8, "two data sets, four methods"
    assert replace(kin[0], pretraining={}).setting != kin[0].setting


def test_published_figures_stand_beside_rows_that_exist():
    suites = [load_suite(name) for name in SUITES]
    places = {(cell.data, cell.row, cell.postprocessing) for suite in suites for cell in cells(suite, [0])}
    figures = load_published()
    assert len(figures) > 40
    for figure in figures:
        variants = {variant for data, row, variant in places if (data, row) == (figure.data, figure.row)}
        assert variants, f"{figure.row} on {figure.data} is in no suite"
        assert figure.postprocessing is None or figure.postprocessing in variants
    own = next(f for f in figures if f.own and (f.row, f.data) == ("ncsc", "mnist"))
    assert (own.acc, own.nmi, own.ari) == (94.09, 86.12, 87.52)


def test_later_groups_and_postprocessing_win_and_sources_follow():
    text = (
        'title = "t"\nrows = ["r"]\n' + DATA + '[[data]]\nname = "e"\nn_clusters = 3\n'
        '[[row]]\nname = "r"\nmethod = "m"\nsettings = [\n'
        '  { source = "paper", where = "Sec. 2", values = { a = 1, b = 2 }, oracle = ["a"] },\n'
        '  { source = "default", data = ["e"], values = { b = 3 }, codes = { epochs = 4 }, oracle = ["b"] },\n]\n'
        'postprocessing = [{ name = "raw", source = "default" },'
        ' { name = "cut", source = "paper", data = ["d"], values = { a = 9 } }]\n'
    )
    found = {(c.data, c.postprocessing): c for c in cells(parse_suite("s", text), [0])}
    assert set(found) == {("d", "raw"), ("d", "cut"), ("e", "raw")}
    d, e = found["d", "raw"], found["e", "raw"]
    assert (d.parameters, d.codes, d.oracle) == ({"a": 1, "b": 2}, {}, ["a"])
    assert (e.parameters, e.codes, e.oracle) == ({"a": 1, "b": 3}, {"epochs": 4}, ["a", "b"])
    assert e.sources == {"a": "paper: Sec. 2", "b": "default", "codes.epochs": "default"}
    assert found["d", "cut"].parameters == {"a": 9, "b": 2}
    assert (d.n_clusters, e.n_clusters) == (2, 3)


def test_key_follows_what_decides_the_result_and_nothing_else(suite):
    cell = cells(suite, [0])[0]
    assert replace(cell, title="x", sources={}, oracle=[], time_limit=1.0, memory_limit_gb=1.0).key == cell.key
    changes = [{"parameters": {"wait": 1.0}}, {"codes": {"epochs": 1}}, {"max_samples": 5}, {"n_clusters": 3}]
    keys = {replace(cell, **change).setting for change in changes}
    assert len(keys | {cell.setting}) == 5
    assert replace(cell, seed=1).setting == cell.setting
    assert replace(cell, seed=1).key != cell.key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = ", "not valid TOML"),
        ('title = "t"\ncolour = 1\n' + DATA, "no key 'colour'"),
        ('title = "t"\nrows = ["x"]\n' + DATA, "row 'x', which no"),
        ('title = "t"\nrows = ["r"]\n' + DATA + '[[row]]\nname = "r"\n', "incomplete"),
        (
            'title = "t"\nrows = ["r"]\n'
            + DATA
            + '[[row]]\nname = "r"\nmethod = "m"\nsettings = [{ source = "labels" }]\n',
            "source 'labels'",
        ),
        (
            'title = "t"\nrows = ["r"]\n'
            + DATA
            + '[[row]]\nname = "r"\nmethod = "m"\nsettings = [{ source = "paper", value = 1 }]\n',
            "no key 'value'",
        ),
        ('title = "t"\n' + DATA, r"nothing to run: add \[\[row\]\]"),
        ('title = "t"\n' + ROW, r"nothing to run: add \[\[data\]\]"),
        ('title = "t"\n' + DATA + DATA + ROW, r"\[\[data\]\] 'd' twice"),
        ('title = "t"\n' + DATA + ROW + ROW, r"\[\[row\]\] 'r' twice"),
        ('title = "t"\n' + DATA + ROW.replace("[[row]]", "[row]"), r"row is not a list of tables: write \[\[row\]\]"),
        ('title = "t"\n' + DATA.replace("[[data]]", "[data]") + ROW, r"write \[\[data\]\], with two brackets"),
        ('title = "t"\ntime_limit = "60"\n' + DATA + ROW, "time_limit is '60' in Suite: give a float or int"),
        ('title = "t"\nseeds = "3"\n' + DATA + ROW, "seeds is '3' in Suite: give a int"),
        ('title = "t"\nseeds = 0\n' + DATA + ROW, "seeds is 0 in Suite: give one above 0"),
        ('title = "t"\nseeds = true\n' + DATA + ROW, "seeds is True in Suite"),
        ('title = "t"\n' + DATA.replace("2", '"ten"') + ROW, "n_clusters is 'ten' in Data"),
        ('title = "t"\n' + DATA + ROW + 'settings = [{ source = "paper", values = 3 }]', "values is 3 in Settings"),
        ('title = "t"\n' + DATA + ROW + 'settings = [{ source = "paper", data = "d" }]', "data is 'd' in Settings"),
    ],
)
def test_mistakes_in_a_suite_are_named(text, words):
    with pytest.raises(InvalidInputError, match=words):
        parse_suite("s", text)


def test_a_suite_of_ones_own_runs_its_rows_without_a_list_of_them():
    text = 'title = "t"\ntime_limit = 60\n' + DATA + ROW
    assert [cell.row for cell in cells(parse_suite("s", text), [0])] == ["r"]
    assert [row.name for row in parse_suite("s", "every_method = true\n" + text).rows] == list(METHODS)


def test_unknown_suites_and_rows_name_the_nearest(suite):
    with pytest.raises(DataNotFoundError, match="table1"):
        load_suite("tabel1")
    with pytest.raises(DataNotFoundError, match=r"\.toml"):
        load_suite("nowhere.toml")
    with pytest.raises(InvalidInputError, match="good"):
        choose_rows(suite, ["goood"])
    assert choose_rows(suite, []) == ["good", "bad", "absent"]
    assert choose_rows(suite, ["fake-nearest", "absent"]) == ["good", "absent"]


def test_a_word_that_is_a_row_does_not_mean_the_other_rows_of_the_method_of_that_name():
    suite = load_suite("table1")
    assert choose_rows(suite, ["ncsc"]) == ["ncsc"]
    assert choose_rows(suite, ["lsr", "ssc"]) == ["ssc-cae", "lsr"]  # there is no row "ssc"
