// A box for InfluxQL, with the answer as a table and a chart.

import { chart } from '../chart.js'
import { confirm, h, on } from '../dom.js'
import { count, seconds, sorted } from '../format.js'
import { post, store } from '../store.js'
import { empty, table } from './parts.js'

const maxRows = 500
// changing are statements that change something; a confirmation comes first.
const changing = /^\s*(drop|delete|create|alter|grant|revoke|set|kill)\b|\binto\b/im
let db = ''
let text = ''
let answer = null // {results, took} or {error}
let running = null
let redraw = () => {}

export const query = {
  enter(draw) {
    redraw = draw
  },
  render() {
    if (!store.session.query) return elsewhere()
    const dbs = [...new Set(Object.values(store.state.shards).map((s) => s.database))].sort()
    if (!db && dbs.length) db = dbs.find((d) => d !== '_internal') ?? dbs[0]
    const examples = ['SHOW DATABASES', 'SHOW MEASUREMENTS', 'SHOW FIELD KEYS', 'SHOW TAG KEYS']
    return [
      h('h1', {}, 'Query'),
      h('form', { class: 'card query', 'data-act': 'ask', 'data-on': 'submit' },
        h('div', { class: 'row' },
          h('label', { class: 'inline' }, 'Database', h('select', { id: 'query-db', 'data-act': 'query-db', 'data-on': 'change' }, dbs.map((d) => h('option', { value: d, selected: d === db }, d)))),
          h('span', { class: 'grow' }),
          examples.map((q) => h('button', { type: 'button', class: 'button small', 'data-act': 'example', 'data-q': q }, q))),
        h('label', {}, h('span', { class: 'hidden' }, 'InfluxQL'),
          h('textarea', { id: 'query-text', rows: 3, spellcheck: 'false', placeholder: 'SELECT mean("value") FROM "measurement" WHERE time > now() - 1h GROUP BY time(1m)' })),
        h('div', { class: 'row' }, h('button', { class: 'button primary', id: 'run-query', disabled: running !== null }, running ? 'Asking…' : 'Run'),
          running ? h('button', { type: 'button', class: 'button', 'data-act': 'stop-query' }, 'Stop') : null,
          h('span', { class: 'muted small' }, 'Ctrl + Enter runs it'),
          h('span', { class: 'grow' }), answer?.took ? h('span', { class: 'muted small', role: 'status' }, `answered in ${seconds(answer.took)}`) : null)),
      result(),
    ]
  },
}

// elsewhere says on a meta node where queries are answered. What was logged in here is not sent along: a login counts
// on one node alone.
function elsewhere() {
  const all = sorted(store.state.nodes).filter(([, n]) => n.http)
  const up = all.filter(([, n]) => n.up)
  const link = ([key, n]) => {
    return h('li', { 'data-key': key }, h('a', { href: `${location.protocol}//${n.http}/cluster#/query` }, n.http))
  }
  return [
    h('h1', {}, 'Query'),
    h('section', { class: 'card', id: 'query-elsewhere' },
      h('p', {}, 'This is a meta node: it has no points, and answers no queries. ',
        up.length ? 'Open the query box at a data node' : all.length ? 'No data node answers now. These are there' : 'There is no data node yet: add one with influxd-ctl add-data.',
        all.length ? (store.session.auth ? ', and log in there:' : ':') : null),
      h('ul', {}, (up.length ? up : all).map(link))),
  ]
}

function result() {
  if (!answer) return null
  if (answer.error) return h('p', { class: 'error card', role: 'alert' }, answer.error)
  return h('div', { id: 'answer', class: 'answer' }, answer.results.map((r, i) => [
    r.error ? h('p', { class: 'error card', role: 'alert' }, r.error) : null,
    (r.messages ?? []).map((m) => h('p', { class: 'warn card' }, m.text)),
    draw(r, i),
    together(r.series ?? []).map((s) => series(s)),
    !r.error && !r.series ? empty('The answer is empty.') : null,
  ]))
}

// together makes one table of series with the same columns: their tags are columns, too.
function together(all) {
  const tables = new Map()
  for (const s of all) {
    const tags = Object.keys(s.tags ?? {})
    const key = JSON.stringify([s.name, tags, s.columns])
    if (!tables.has(key)) tables.set(key, { name: s.name, columns: [...tags, ...s.columns], values: [] })
    const t = tables.get(key)
    for (const v of s.values ?? []) t.values.push([...tags.map((k) => s.tags[k]), ...v])
  }
  return [...tables.values()]
}

function series(s) {
  const rows = s.values.slice(0, maxRows)
  return h('section', {}, s.name ? h('h3', {}, s.name) : null,
    table(s.columns.map((c, i) => isNumber(s, i) ? { num: c } : c), rows.map((row) => row.map((v, i) => isNumber(s, i) ? { num: cell(v, s.columns[i]) } : { wide: cell(v, s.columns[i]) })),
      { label: `Answer ${s.name ?? ''}` }),
    s.values.length > maxRows ? h('p', { class: 'muted' }, `The first ${count(maxRows)} of ${count(s.values.length)} rows`) : null)
}

const isNumber = (s, i) => s.columns[i] !== 'time' && typeof (s.values ?? []).find((r) => r[i] !== null)?.[i] === 'number'

function cell(v, column) {
  if (v === null) return h('span', { class: 'muted' }, '–')
  if (column === 'time' && typeof v === 'number') return h('time', { title: new Date(v).toISOString() }, new Date(v).toLocaleString())
  return String(v)
}

// draw draws what has times and numbers.
function draw(r, i) {
  const lines = []
  for (const s of r.series ?? []) {
    const t = s.columns.indexOf('time')
    if (t < 0 || (s.values ?? []).length < 2) continue
    const tags = Object.values(s.tags ?? {}).join(' ')
    s.columns.forEach((c, k) => {
      if (isNumber(s, k)) lines.push({ name: `${tags} ${c}`.trim(), x: s.values.map((v) => v[t] / 1000), y: s.values.map((v) => v[k]) })
    })
  }
  return lines.length && lines.length <= 40 ? chart({ key: `answer-${i}`, label: 'The answer as a chart', lines, format: (n) => n == null ? '–' : String(Number(n.toPrecision(6))) }) : null
}

async function ask() {
  text = document.getElementById('query-text').value
  if (!text.trim() || running) return
  if (changing.test(text) && !(await confirm({
    title: 'Run this statement?', text: [text, 'It may change or remove something for the whole cluster, which cannot be undone.'], yes: 'Run it', danger: true,
  }))) return
  running = new AbortController()
  redraw()
  const began = performance.now()
  try {
    const a = await post('/query', { q: text, db }, running.signal)
    answer = { results: a.results ?? [], error: a.error, took: (performance.now() - began) / 1000 }
  } catch (e) {
    answer = { error: e.message }
  }
  running = null
  redraw()
}

on('ask', ask)
on('stop-query', () => running?.abort())
on('query-db', (e) => { db = e.value })
on('example', (b) => {
  document.getElementById('query-text').value = b.dataset.q
  ask()
})
document.addEventListener('keydown', (e) => {
  if (e.target.id === 'query-text' && e.key === 'Enter' && (e.ctrlKey || e.metaKey)) ask()
})
