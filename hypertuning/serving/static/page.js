// The page: examples become phi, and three columns answer a question.
// Text of users and models is set as text, never as HTML.

import {file, getJson, post, stream} from './client.js';
import {format, parse} from './examples.js';

const byId = id => document.getElementById(id);
const number = new Intl.NumberFormat('en');
let model = {has_hypermodel: false, max_tokens: 0};
let sets = [];
let phi = null;  // name, and the examples that it was made from
let asking = null;  // the AbortController of a question that is answered

function milliseconds(value) {
  return value < 1000 ? `${value.toFixed(value < 10 ? 1 : 0)} ms` :
    `${(value / 1000).toFixed(1)} s`;
}

function compiled(value) {
  return value > 50 ? ` (and ${milliseconds(value)} to compile, once)` : '';
}

function show(id, message) {
  byId(id).textContent = message;
}

function current() {
  return {
    examples: parse(byId('examples').value),
    definition: byId('definition').value.trim(),
  };
}

function choose(set) {
  byId('examples').value = format(set.examples);
  byId('definition').value = set.definition;
  byId('suggestions').replaceChildren(...set.queries.map(query => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = query;
    button.addEventListener('click', () => {
      byId('query').value = query;
      byId('ask-form').requestSubmit();
    });
    return button;
  }));
  changed();
}

// Says how many examples there are, and whether phi is still theirs.
function changed() {
  show('adapt-error', '');
  try {
    const task = current();
    show('count', `${number.format(task.examples.length)} examples`);
    byId('stale').hidden = !phi || phi.task === text(task);
  } catch (error) {
    show('count', error.message);
  }
}

function text(task) {
  return JSON.stringify(task);
}

async function adapt(event) {
  event.preventDefault();
  show('adapt-error', '');
  const button = byId('adapt');
  button.disabled = true;
  show('phi', 'Reading the examples…');
  byId('downloads').hidden = byId('stale').hidden = true;
  phi = null;
  try {
    const task = current();
    if (!task.examples.length) throw new Error('Give one or more examples.');
    const made = await (await post('/adapt', task)).json();
    phi = {name: made.name, task: text(task)};
    const taken = document.createElement('strong');
    taken.textContent = milliseconds(made.milliseconds);
    const chunks = made.chunks > 1 ? `, read in ${made.chunks} parts` : '';
    byId('phi').replaceChildren(
      `φ made in `, taken, compiled(made.compiling),
      `: a ${made.kind}, ${number.format(made.bytes)} bytes${chunks}.`);
    changed();
    byId('downloads').hidden = false;
  } catch (error) {
    show('phi', '');
    show('adapt-error', error.message);
  } finally {
    button.disabled = !model.has_hypermodel;
  }
}

async function download(event) {
  const {form} = event.target.dataset;
  show('adapt-error', '');
  try {
    const data = await file(
      `/phi/${encodeURIComponent(phi.name)}?form=${form}`);
    const link = document.createElement('a');
    link.href = URL.createObjectURL(data);
    link.download = phi.name + (form === 'peft' ? '.zip' : '.safetensors');
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    show('adapt-error', error.message);
  }
}

function bodies(query) {
  const ask = {queries: [query]};
  let task = {examples: []};
  try {
    task = current();
  } catch {
    // The column of the examples says that there are none.
  }
  return {
    frozen: {body: ask},
    adapted: phi ? {body: {...ask, phi: phi.name}} :
      {reason: model.has_hypermodel ? 'Adapt first.' : 'No hypermodel.'},
    context: task.examples.length ? {body: {...ask, ...task}} :
      {reason: 'Give examples.'},
  };
}

function turn(query) {
  const shown = byId('turn').content.cloneNode(true);
  shown.querySelector('h3').textContent = query;
  const columns = Object.fromEntries([...shown.querySelectorAll('.column')]
    .map(column => [column.dataset.kind, column]));
  byId('answers').prepend(shown);
  return columns;
}

async function fill(column, {body, reason}, signal) {
  const answer = column.querySelector('.answer');
  if (reason) {
    answer.classList.add('empty');
    answer.textContent = reason;
    return;
  }
  answer.classList.add('running');
  try {
    const took = await stream(
      body, part => { answer.textContent = part; }, signal);
    column.querySelector('.cost').textContent =
      `${milliseconds(took.milliseconds)}${compiled(took.compiling)} · ` +
      `${number.format(took.tokens.read)} tokens read, ` +
      `${number.format(took.tokens.written)} written`;
    if (!answer.textContent) {
      answer.classList.add('empty');
      answer.textContent = 'An empty answer.';
    }
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    answer.classList.add('failed');
    answer.textContent = error.message;
  } finally {
    answer.classList.remove('running');
  }
}

async function ask(event) {
  event.preventDefault();
  if (asking) {
    asking.abort();
    return;
  }
  const query = byId('query').value;
  show('ask-error', '');
  if (!query.trim()) {
    show('ask-error', 'Write an input of the task.');
    byId('query').focus();
    return;
  }
  asking = new AbortController();
  show('ask', 'Stop');
  const columns = turn(query);
  try {
    // One after another: each time is then that of one column alone.
    for (const [kind, wanted] of Object.entries(bodies(query))) {
      await fill(columns[kind], wanted, asking.signal);
    }
    show('done', Object.values(columns).map(column =>
      `${column.querySelector('h4').textContent}: ` +
      column.querySelector('.answer').textContent).join('. '));
  } catch (error) {
    if (error.name !== 'AbortError') show('ask-error', error.message);
  } finally {
    asking = null;
    show('ask', 'Ask');
  }
}

async function open(event) {
  const [chosen] = event.target.files;
  if (!chosen) return;
  if (chosen.size > 1_000_000) {
    show('adapt-error', `${chosen.name}: is larger than a megabyte.`);
    return;
  }
  byId('examples').value = await chosen.text();
  byId('suggestions').replaceChildren();
  event.target.value = '';
  changed();
}

async function start() {
  byId('adapt-form').addEventListener('submit', adapt);
  byId('ask-form').addEventListener('submit', ask);
  byId('downloads').addEventListener('click', event => {
    if (event.target.dataset.form) download(event);
  });
  byId('file').addEventListener('change', open);
  byId('examples').addEventListener('input', changed);
  byId('definition').addEventListener('input', changed);
  byId('examples').addEventListener('keydown', event => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      byId('adapt-form').requestSubmit();
    }
  });
  byId('set').addEventListener('change', event =>
    choose(sets[event.target.value]));
  try {
    [model, sets] = await Promise.all(
      [getJson('/model'), getJson('/static/sets.json')]);
  } catch (error) {
    show('adapt-error', error.message);
    return;
  }
  show('model', model.name);
  byId('adapt').disabled = !model.has_hypermodel;
  byId('no-hypermodel').hidden = model.has_hypermodel;
  show('no-hypermodel', model.missing);
  byId('set').replaceChildren(...sets.map((set, index) =>
    new Option(set.name, index)));
  // A model that reads and writes few tokens starts with a set of short texts.
  const fits = set => set.examples.every(({inputs, targets}) =>
    targets.length <= model.max_tokens && inputs.length <= model.reads / 2);
  const index = Math.max(0, sets.findIndex(fits));
  byId('set').value = index;
  choose(sets[index]);
}

start();
