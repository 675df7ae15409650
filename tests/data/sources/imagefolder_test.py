"""Which files of which folders are read, and what is said of the others."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from support.plain import PLAIN

from purify.core.errors import UserError
from purify.data.sources import open_source as sources
from purify.data.sources.imagefolder import read_imagefolder, sign_imagefolder

CLASSES = ('ant', 'bee', 'cat')


def picture(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8), (level, level, level)).save(path, 'PNG')


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten pictures for training and five for testing, in `birds`."""
    for split, count in (('train', 10), ('test', 5)):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                picture(tmp_path / 'birds' / split / name / f'{i}.png', 10 * k + i)
    return tmp_path / 'birds'


def open_source(folder, **changes):
    return sources.open_source('imagefolder', **(PLAIN | {'path': str(folder)} | changes))


def levels(pool):
    return [int(pool.fetch(i)[0, 0, 0]) for i in range(len(pool))]


class TestFolders:
    @pytest.mark.parametrize('train', ['train', 'training', 'Train'])
    @pytest.mark.parametrize('test', ['test', 'val', 'validation', 'TEST'])
    def test_usual_names(self, folder, train, test, capsys):
        (folder / 'train').rename(folder / 'a')
        (folder / 'test').rename(folder / 'b')
        (folder / 'a').rename(folder / train)
        (folder / 'b').rename(folder / test)
        source = open_source(folder)
        assert (len(source.train), len(source.test)) == (30, 15)
        assert capsys.readouterr().err == ''

    def test_of_several_the_first_is_taken_and_that_is_said(self, folder, capsys):
        shutil.copytree(folder / 'train', folder / 'val')
        assert len(open_source(folder).test) == 15
        said = f'{folder}: reads train and test, and leaves out beside them 1 folders (val).\n'
        assert capsys.readouterr().err == said
        assert len(open_source(folder, test='val').test) == 30

    def test_what_lies_beside_the_folders_that_are_read_is_counted_and_named(self, folder, capsys):
        for name in ('unlabelled/0.png', 'train2/ant/0.png', '1.png', '.cache/0.png', 'notes.txt'):
            picture(folder / name)
        open_source(folder)
        assert (
            capsys.readouterr().err
            == f'{folder}: reads train and test, and leaves out beside them 2 folders (train2,'
            ' unlabelled), 2 files (1.png, notes.txt), 1 hidden files or folders (.cache).\n'
        )

    def test_class_folders_that_are_hidden_and_pictures_outside_of_any_class(self, folder, capsys):
        picture(folder / 'train' / '.cats' / '0.png')
        picture(folder / 'train' / 'loose.png')
        assert len(open_source(folder).train) == 30
        said = capsys.readouterr().err
        wanted = f'{folder}/train: left out 1 pictures that lie in no class folder (loose.png).\n'
        assert wanted in said
        assert (
            f'{folder}/train: left out 1 folders that begin with a dot (.cats). Rename classes'
            ' among them.\n' in said
        )
        for name in CLASSES:
            (folder / 'train' / name).rename(folder / name)
        picture(folder / '0.png')
        shutil.rmtree(folder / 'train')
        shutil.rmtree(folder / 'test')
        open_source(folder)
        wanted = f'{folder}: left out 1 pictures that lie in no class folder (0.png).\n'
        assert wanted in capsys.readouterr().err

    @pytest.mark.parametrize(
        'given',
        [
            {'train': 'train', 'test': 'train'},
            {'train': 'test'},
            {'test': './train'},
            {'test': 'link'},
            {'test': '.'},
        ],
    )
    def test_the_same_images_for_training_and_testing_are_refused(self, folder, given):
        (folder / 'link').symlink_to('train')
        said = 'hold the same images: a model would be tested on what it was trained on'
        with pytest.raises(UserError, match=said):
            open_source(folder, **given)

    def test_a_share_that_has_no_effect_is_said(self, folder, capsys):
        open_source(folder, test_share=0.2)
        assert capsys.readouterr().err == ''
        open_source(folder, test_share=0.5)
        said = f'{folder}: has test images, so source.test_share=0.5 has no effect.\n'
        assert capsys.readouterr().err == said

    def test_other_names_are_given(self, folder):
        (folder / 'train').rename(folder / 'mine')
        (folder / 'test').rename(folder / 'yours')
        assert len(open_source(folder, train='mine', test='yours').test) == 15
        with pytest.raises(UserError, match=r'birds/ours: no such folder; there are mine, yours'):
            open_source(folder, train='mine', test='ours')

    @pytest.mark.parametrize('lone', [True, False], ids=['train alone', 'classes alone'])
    def test_without_a_test_folder_a_share_of_each_class_is_held_out(self, folder, lone, capsys):
        shutil.rmtree(folder / 'test')
        root = folder if lone else folder / 'train'
        source = open_source(root, test_share=0.25)
        # a quarter of ten, rounded up, of each class
        assert np.bincount(source.test.labels).tolist() == [3, 3, 3]
        assert np.bincount(source.train.labels).tolist() == [7, 7, 7]
        assert sorted([*source.train.ids, *source.test.ids]) == list(range(30))
        assert sorted(levels(source.train) + levels(source.test)) == list(range(30))
        again = open_source(root, test_share=0.25, split_seed=7)
        np.testing.assert_array_equal(again.test.ids, source.test.ids)
        said = (
            f'{root}: no test folder, so 0.25 of each class is held out for testing: 21 training'
            ' and 9 test images.'
        )
        assert said in capsys.readouterr().err
        told = r'source\.test_share=1: choose a share between 0 and 1'
        with pytest.raises(UserError, match=told):
            open_source(root, test_share=1)

    def test_a_misspelt_test_folder_is_no_reason_to_hold_out(self, folder):
        (folder / 'test').rename(folder / 'tset')
        with pytest.raises(
            UserError,
            match=(
                r"a folder 'train', but none of test images \(test or val or .*there are: train,"
                r' tset'
            ),
        ):
            open_source(folder)
        (folder / 'train').rename(folder / 'trian')
        (folder / 'tset').rename(folder / 'val')
        said = r"a folder 'val', but none of training images \(train or training\)"
        with pytest.raises(UserError, match=said):
            open_source(folder)

    def test_a_class_in_one_split_alone_is_named(self, folder):
        (folder / 'test' / 'cat').rename(folder / 'test' / 'cats')
        said = r"class folders of 'train' and 'test' differ: cat, cats\. Both need every class"
        with pytest.raises(UserError, match=said):
            open_source(folder)

    def test_an_empty_class_is_named(self, folder):
        for file in (folder / 'train' / 'cat').iterdir():
            file.unlink()
        said = r'train/cat: no pictures in this class folder \(formats: PNG, '
        with pytest.raises(UserError, match=said):
            open_source(folder)

    def test_what_is_no_source_at_all(self, tmp_path):
        said = r'birds: no such folder\. An imagefolder needs train/<class>/'
        with pytest.raises(UserError, match=said):
            open_source(tmp_path / 'birds')
        (tmp_path / 'birds').mkdir()
        said = r'birds: no class folders\. An imagefolder needs'
        with pytest.raises(UserError, match=said):
            open_source(tmp_path / 'birds')
        (tmp_path / 'file').write_text('')
        with pytest.raises(UserError, match=r'file: cannot be read \(Not a directory\)'):
            open_source(tmp_path / 'file')
        with pytest.raises(UserError, match='the source has no path; give its folder'):
            open_source('')


class TestFiles:
    def test_every_picture_counts_whatever_its_name_and_however_deep(
        self, folder, tmp_path, capsys
    ):
        here = folder / 'train' / 'bee'
        for name in (
            '9a.jfif',
            'no_suffix',
            'odd.data',
            'deeper/a.png',
            'deeper/still/b.JPE',
            'A.PNG',
        ):
            picture(here / name, 200)
        picture(tmp_path / 'elsewhere' / 'linked.png', 200)
        (here / 'link').symlink_to(tmp_path / 'elsewhere')
        (here / 'one.png').symlink_to(tmp_path / 'elsewhere' / 'linked.png')
        (here / 'link' / 'circle').symlink_to(here)
        source = open_source(folder)
        assert np.bincount(source.train.labels).tolist() == [10, 18, 10]
        said = capsys.readouterr().err
        assert levels(source.train).count(200) == 8
        wanted = f'{folder}/train: 3 pictures lie deeper in a class folder and count as of it.\n'
        assert said == wanted

    def test_what_is_no_picture_is_counted_and_named(self, folder, capsys):
        here = folder / 'test' / 'ant'
        (here / 'notes.txt').write_text('Python, BM, P5: no picture')
        (here / 'empty').write_bytes(b'')
        (here / 'deeper').mkdir()
        (here / 'deeper' / 'photo.psd').write_bytes(b'8BPS\0\1')
        for name in ('.DS_Store', '._0.png', 'Thumbs.db'):
            (here / name).write_bytes(b'\x89PNG')
        (folder / 'test' / 'readme').write_text('beside the classes')
        os.mkfifo(here / 'pipe')  # opening it would wait for ever
        assert len(open_source(folder).test) == 15
        said = capsys.readouterr().err
        assert said.startswith(f'{folder}/test: left out 5 files that are no pictures (')
        for name in ('ant/notes.txt', 'ant/empty', 'ant/deeper/photo.psd', 'ant/pipe', 'readme'):
            assert name in said
        assert 'left out 3 hidden files (' in said
        for name in ('ant/.DS_Store', 'ant/._0.png', 'ant/Thumbs.db'):
            assert name in said
        for i in range(9):
            (here / f'{i}.txt').write_text('')
        open_source(folder)
        assert 'left out 14 files that are no pictures (ant/' in (said := capsys.readouterr().err)
        assert said.splitlines()[0].count('ant/') == 5
        assert ', ...).' in said

    def test_a_picture_that_is_broken_or_gone_is_never_left_out(self, folder):
        (folder / 'train' / 'ant' / '0a.png').symlink_to(folder / 'nowhere')
        with pytest.raises(UserError, match=r'0a\.png: cannot be read'):
            levels(open_source(folder).train)
        (folder / 'train' / 'ant' / '0a.png').unlink()
        (folder / 'train' / 'ant' / '0a.png').write_bytes(b'')
        with pytest.raises(UserError, match=r'0a\.png: not a readable picture'):
            levels(open_source(folder).train)

    def test_a_link_to_itself(self, folder, capsys):
        (folder / 'train' / 'ant' / 'loop').symlink_to('loop')
        assert len(open_source(folder).train) == 30
        assert '(ant/loop)' in capsys.readouterr().err

    def test_peculiar_pictures_are_counted_by_the_source(self, folder):
        for i in range(3):
            Image.new('RGBA', (8, 8)).save(folder / 'train' / 'ant' / f'{i}.png')
        source = open_source(folder)
        for _ in range(2):
            levels(source.train)
        assert source.notes.counts() == {'alpha': 3}


class TestClassNames:
    def make(self, folder, *names):
        for split in ('train', 'test'):
            for name in names:
                path = os.fsencode(folder / split) + b'/' + name
                os.makedirs(path)
                Image.new('RGB', (8, 8)).save(os.fsdecode(path + b'/0.png'))
        return open_source(folder)

    def test_names_that_differ_in_their_unicode_form_alone(self, tmp_path):
        composed, parts = 'café'.encode(), 'cafe\u0301'.encode()
        expected = (
            r'source imagefolder: class names that differ in their Unicode form alone: .*c a f e'
            r' U\+0301\), .*c a f U\+00E9\)'
        )
        with pytest.raises(UserError, match=expected):
            self.make(tmp_path, composed, parts, b'tea')

    def test_of_two_splits(self, tmp_path):
        self.make(tmp_path, b'ant', 'café'.encode())
        os.rename(tmp_path / 'test' / 'café', tmp_path / 'test' / 'cafe\u0301')
        said = r'differ: .*\(c a f e U\+0301\), .*\(c a f U\+00E9\)\. Both need every class'
        with pytest.raises(UserError, match=said):
            open_source(tmp_path)

    def test_a_name_that_is_not_utf8(self, tmp_path):
        said = r"the class name b'caf\\xe9' is not UTF-8.*Rename it"
        with pytest.raises(UserError, match=said) as caught:
            self.make(tmp_path, b'caf\xe9', b'tea')
        str(caught.value).encode()

    def test_classes_may_be_chosen_in_either_form(self, tmp_path):
        self.make(tmp_path, b'ant', 'cafe\u0301'.encode(), b'tea')
        for name in ('café', 'cafe\u0301'):
            assert open_source(tmp_path, classes=f'tea,{name}').class_names == ['tea', 'cafe\u0301']
        with pytest.raises(UserError, match='named twice'):
            open_source(tmp_path, classes='tea,café,cafe\u0301')

    def test_control_characters(self, tmp_path):
        said = r"class names \['a\\rb'\]: .*without space around it or control characters"
        with pytest.raises(UserError, match=said):
            self.make(tmp_path, b'a\rb', b'tea')

    def test_joiners_of_other_scripts_are_letters(self, tmp_path):
        name = 'کتاب\u200cها'
        assert name in self.make(tmp_path, name.encode(), b'tea').class_names


class TestSignature:
    def changes(self, folder, change, **given):
        source = {'name': 'imagefolder', 'path': str(folder), **given}
        before = sources.sign_source(source)
        change()
        return sources.sign_source(source) != before

    @pytest.mark.parametrize('form', ['absolute', 'above', 'home'])
    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_folders_outside_of_the_path_count(self, folder, tmp_path, monkeypatch, form, split):
        monkeypatch.setenv('HOME', str(tmp_path))
        (folder / split).rename(tmp_path / 'far')
        given = {
            split: {'absolute': str(tmp_path / 'far'), 'above': '../far', 'home': '~/far'}[form]
        }
        found = (len(open_source(folder, **given).train), len(open_source(folder, **given).test))
        assert found == (30, 15)
        file = tmp_path / 'far' / 'ant' / '3.png'
        assert self.changes(folder, lambda: picture(file, 99), **given)
        assert self.changes(
            folder, lambda: file.rename(tmp_path / 'far' / 'bee' / 'x.png'), **given
        )
        other = 'train' if split == 'test' else 'test'
        assert self.changes(
            folder, lambda: picture(folder / other / 'ant' / '3.png', 99), **given
        ), 'the usual folder counts too'
        both = given | {other: other}
        assert self.changes(folder, lambda: picture(file, 98), **both)
        assert self.changes(folder, lambda: picture(folder / other / 'ant' / '3.png', 98), **both)
        assert not self.changes(folder, lambda: (folder / 'notes').write_text('not read'), **both)

    def test_any_change_of_what_is_read_shows(self, folder, tmp_path):
        file = folder / 'train' / 'ant' / '3.png'
        picture(tmp_path / 'elsewhere' / 'far.png')
        assert not self.changes(folder, lambda: None)
        assert self.changes(folder, lambda: file.rename(folder / 'train' / 'bee' / 'x.png'))
        assert self.changes(
            folder, lambda: (folder / 'test' / 'cat' / 'link').symlink_to(tmp_path / 'elsewhere')
        )
        assert self.changes(folder, lambda: picture(tmp_path / 'elsewhere' / 'far.png', 99)), (
            'behind a link'
        )
        assert self.changes(folder, lambda: (folder / 'test').rename(folder / 'val'))

    def test_a_file_replaced_under_its_old_size_and_time_shows(self, folder):
        file = folder / 'train' / 'ant' / '3.png'

        def replace():
            facts, data = file.stat(), bytearray(file.read_bytes())
            data[-20] ^= 1
            file.write_bytes(bytes(data))
            os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            wanted = (facts.st_size, facts.st_mtime_ns)
            assert (file.stat().st_size, file.stat().st_mtime_ns) == wanted

        assert self.changes(folder, replace)

    def test_where_there_are_too_many_to_hash_size_and_time_count(self, folder, monkeypatch):
        monkeypatch.setattr('purify.data.content.SMALL_BYTES', 10)
        monkeypatch.setattr('purify.data.content.sha256_of', lambda path: pytest.fail('read'))
        file = folder / 'train' / 'ant' / '3.png'
        assert not self.changes(folder, lambda: None)
        assert self.changes(folder, lambda: os.utime(file, ns=(1, 1)))
        assert self.changes(folder, lambda: file.write_bytes(b'shorter'))

    def test_odd_files_and_none(self, folder):
        os.mkfifo(folder / 'train' / 'ant' / 'pipe')
        (folder / 'train' / 'ant' / 'gone').symlink_to('nowhere')
        assert sign_imagefolder(str(folder))['train/ant/gone'] == 'missing'
        assert sign_imagefolder(str(folder / 'nowhere')) == {}


def test_ids_follow_the_sorted_names(folder):
    source = read_imagefolder(3, str(folder))
    assert levels(source.train) == [10 * k + i for k in range(3) for i in range(10)]
    np.testing.assert_array_equal(source.train.ids, np.arange(30))
