"""The page in a real browser: no sideways scroll, every image loaded, readable in light and dark,
silent console.
"""
# ruff: noqa: E501  (programs and files as text)

import json
import re
import shutil
import subprocess

import pytest
from report.typed import typed, typed_runs

from purify.report.page import write_report, write_runs_page
from purify.report.run import Finished
from purify.report.tables import collect

WIDTHS = (1280, 390)
CHECK = """<!doctype html><body><script>
const lum = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                   return .2126 * r + .7152 * g + .0722 * b };
const rgb = s => s.match(/[\\d.]+/g).map(Number);
const ground = (w, e) => { for (; e; e = e.parentElement) { const c = rgb(w.getComputedStyle(e).backgroundColor);
                           if (c.length < 4 || c[3] > 0) return c.slice(0, 3) } };
function contrast(w, e) {
  const style = w.getComputedStyle(e), text = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
  const [a, b] = [lum(rgb(text).slice(0, 3)), lum(ground(w, e))];
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}
function look(w) {
  const d = w.document, texts = [...d.body.querySelectorAll('*')].filter(
    e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) && !['SCRIPT', 'STYLE'].includes(e.tagName));
  return {inner: w.innerWidth, scroll: d.documentElement.scrollWidth, images: d.images.length,
          broken: [...d.images].filter(i => !i.complete || !i.naturalWidth).length, texts: texts.length,
          faint: texts.filter(e => contrast(w, e) < 4.5).map(e => e.outerHTML.slice(0, 80)),
          tall: Math.max(...[...d.images].map(i => i.getBoundingClientRect().height), 0),
          dark: lum(ground(w, d.body)) < .5};
}
addEventListener('load', () => {
  const out = document.createElement('pre'); out.id = 'out';
  const views = [...document.querySelectorAll('iframe')].map(frame => look(frame.contentWindow));
  out.textContent = JSON.stringify(views); document.body.append(out);
});
</script>FRAMES</body>"""


@pytest.fixture(scope='module')
def chromium():
    found = (
        shutil.which('chromium')
        or shutil.which('chromium-browser')
        or shutil.which('google-chrome')
    )
    if found is None:
        pytest.skip('chromium is not installed')
    return found


def look(chromium, folder, page, *, dark):
    """Opens `page` from disk in frames of each width (a window cannot be narrower than 500 px) and
    measures it.
    """
    frames = ''.join(
        f'<iframe src="{page.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>'
        for width in WIDTHS
    )
    check = folder / 'check.html'
    check.write_text(CHECK.replace('FRAMES', frames))
    command = [
        chromium,
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--hide-scrollbars',
        '--allow-file-access-from-files',
        '--enable-logging=stderr',
        f'--blink-settings=preferredColorScheme={0 if dark else 1}',
        f'--user-data-dir={folder / "profile"}',
        '--window-size=1400,900',
        '--dump-dom',
        check.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if 'CONSOLE' in line] == []
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace('&lt;', '<').replace('&gt;', '>').replace('&amp;', '&'))


@pytest.mark.parametrize('dark', [False, True])
def test_report_in_a_browser(
    chromium, tmp_path, found, curves, samples, environment, pictures, dark
):
    found['classes'] = [environment.setdefault('a_long_setting', 'wordwithoutanyspace' * 12)] * 3
    samples[0]['true_label'] = samples[0]['given_label'] = 'wordwithoutanyspace' * 12
    page = write_report(
        tmp_path / 'report', Finished(typed(found), curves, samples, environment, pictures)
    )
    views = look(chromium, tmp_path, page, dark=dark)
    assert [view['inner'] for view in views] == list(WIDTHS)
    for view in views:
        assert view['scroll'] <= view['inner']
        assert (view['images'], view['broken']) == (80, 0)
        assert view['tall'] == 96
        assert view['texts'] > 100
        assert view['faint'] == []
        assert view['dark'] is dark


@pytest.mark.parametrize('dark', [False, True])
def test_features_in_a_browser(
    chromium, tmp_path, relabelled, curves, samples, environment, atlas, dark
):
    relabelled['classes'] = ['wordwithoutanyspace' * 12] * 3
    page = write_report(
        tmp_path / 'report',
        Finished(typed(relabelled), curves, samples, environment, feature_map=atlas),
    )
    for view in look(chromium, tmp_path, page, dark=dark):
        assert view['scroll'] <= view['inner']
        assert view['faint'] == []


@pytest.mark.parametrize('dark', [False, True])
def test_generations_in_a_browser(
    chromium, tmp_path, dissected, curves, samples, environment, shown, copies, dark
):
    dissected['classes'] = ['wordwithoutanyspace' * 12] * 3
    page = write_report(
        tmp_path / 'report',
        Finished(typed(dissected), curves, samples, environment, groups=shown, copies=copies),
    )
    for view in look(chromium, tmp_path, page, dark=dark):
        assert view['scroll'] <= view['inner']
        assert (view['images'], view['broken']) == (17 + 20 + 9, 0)
        assert view['faint'] == []


def test_bars_of_a_sweep_in_a_browser(chromium, tmp_path, dissected):
    other = dissected | {'attack': dissected['attack'] | {'rate': 0.01}}
    page = write_runs_page(
        tmp_path / 'sweep',
        collect(typed_runs([({'rate': 0.1}, 0, dissected), ({'rate': 0.01}, 0, other)])),
    )
    assert '<svg' in page.read_text('utf-8')
    for view in look(chromium, tmp_path, page, dark=False):
        assert view['scroll'] <= view['inner']
        assert view['faint'] == []


def test_sweep_table_in_a_browser(chromium, tmp_path, results):
    page = write_runs_page(
        tmp_path / 'sweep',
        collect(typed_runs([({'attack': 'patch'}, seed, results) for seed in (0, 1)])),
    )
    for view in look(chromium, tmp_path, page, dark=False):
        assert view['scroll'] <= view['inner']
        assert view['faint'] == []
