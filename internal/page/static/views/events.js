// What the nodes say: the last thousand lines of their logs that people want to know of.

import { h, on } from '../dom.js'
import { atSeconds, count, sorted } from '../format.js'
import { store } from '../store.js'
import { deletesWaiting, empty } from './parts.js'

const kinds = {
  node: 'nodes', meta: 'metadata', entropy: 'entropy found', repair: 'repairs', damage: 'damage', hints: 'hinted handoff', delete: 'deletes',
  disk: 'disk', copy: 'copies', users: 'users', clock: 'clocks', action: 'actions of operators', other: 'other',
}
const filter = { kind: '', level: '', text: '' }
let redraw = () => {}

// line shows one event.
const line = ([key, e]) => h('li', { class: e.level, 'data-key': key },
  h('span', { class: 'when' }, atSeconds(e.time)),
  h('span', { class: `pill ${e.level}` }, { info: '·', warn: '!', error: '✕' }[e.level] ?? '·', ` ${kinds[e.kind] ?? e.kind}`),
  h('span', { class: 'what' }, e.text, e.shard ? [' ', h('a', { href: `#/shard/${e.shard}` }, `shard ${e.shard}`)] : null),
  h('span', { class: 'muted small' }, e.node))

const newest = () => sorted(store.state.events, ([, a], [, b]) => Date.parse(b.time) - Date.parse(a.time))

// recent shows the newest events.
export const recent = (n) => h('ol', { class: 'events' }, newest().slice(0, n).map(line))

export const events = {
  enter(draw) {
    redraw = draw
  },
  render() {
    const all = newest()
    const want = filter.text.toLowerCase()
    const shown = all.filter(([, e]) => (!filter.kind || e.kind === filter.kind) && (!filter.level || e.level !== 'info') &&
      (!want || `${e.text} ${e.node} ${e.shard ?? ''}`.toLowerCase().includes(want)))
    const option = (name) => ([v, t]) => h('option', { value: v, selected: filter[name] === v }, t)
    return [
      h('h1', {}, 'Events'),
      deletesWaiting(),
      h('div', { class: 'row filters' },
        h('label', {}, 'About', h('select', { name: 'kind', 'data-act': 'event-filter', 'data-on': 'change' }, [['', 'All'], ...Object.entries(kinds)].map(option('kind')))),
        h('label', {}, 'Show', h('select', { name: 'level', 'data-act': 'event-filter', 'data-on': 'change' }, [['', 'All'], ['warn', 'Warnings and errors']].map(option('level')))),
        h('label', {}, 'With the words', h('input', { name: 'text', type: 'search', 'data-act': 'event-filter', 'data-on': 'input' })),
        h('span', { class: 'grow' }), h('span', { class: 'muted', role: 'status' }, `${count(shown.length)} of ${count(all.length)} events`)),
      shown.length ? h('ol', { class: 'events' }, shown.slice(0, 300).map(line)) : empty('Nothing of that kind has happened since the nodes started.'),
      shown.length > 300 ? h('p', { class: 'muted' }, `and ${count(shown.length - 300)} older ones: narrow the filter`) : null,
    ]
  },
}

on('event-filter', (e) => {
  filter[e.name] = e.value
  redraw()
})
