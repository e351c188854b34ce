package budget

import (
	"sync"
	"sync/atomic"
)

// Request is the request of a client that statements belong to.
type Request struct {
	*Share
	ID    string        // that its client and the log know
	Query atomic.Uint64 // the ID of its query, as SHOW QUERIES has it; 0 before that runs
	// Streamed is whether the client gets each part of the answer as soon as it is there. Else the whole answer is held
	// until the last statement has ended.
	Streamed bool

	mu    sync.Mutex
	rows  bool
	notes []Note
}

// Note is what a client is to be told of an answer.
type Note struct{ Kind, Text string } // "warning" or "error"

// Note keeps what the form of the answer may have no place for.
func (r *Request) Note(kind, text string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, Note{kind, text})
}

// Rows notes that n series were passed on to the client.
func (r *Request) Rows(n int) {
	if r == nil || n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = true
}

// Notes returns what was noted, and whether the answer has rows.
func (r *Request) Notes() (all []Note, rows bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.notes, r.rows
}

// Requests are those that run. The engine passes a number from a request to its statements, and nothing else.
type Requests struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*Request
}

// Add returns the number of a request from now on, which is not 0.
func (r *Requests) Add(q *Request) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[uint64]*Request)
	}
	r.last++
	r.open[r.last] = q
	return r.last
}

// Remove forgets a request.
func (r *Requests) Remove(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

// Get returns a request, nil when there is none of that number.
func (r *Requests) Get(id uint64) *Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[id]
}

// OfQuery returns the request of a query, nil when there is none.
func (r *Requests) OfQuery(id uint64) *Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.open {
		if q.Query.Load() == id {
			return q
		}
	}
	return nil
}
