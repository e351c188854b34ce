//go:build bench

package transport

// count returns the calls since of was called last.
func (m *messages) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}
