package datanode

import (
	"fmt"
	"os"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// queryLog is the file of [data] query-log-path: a line of JSON for each query that clients send to this node. Programs
// that rotate logs move it away and send SIGHUP.
type queryLog struct {
	path string

	mu   sync.Mutex
	file *os.File
}

// openQueryLog opens the file, and makes it if it does not exist.
func openQueryLog(path string) (*queryLog, error) {
	file, err := appendTo(path)
	return &queryLog{path: path, file: file}, err
}

func appendTo(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("[data] query-log-path: %w", err)
	}
	return f, nil
}

// prepareReload opens the file that has the path now. On an error nothing has changed.
func (q *queryLog) prepareReload() (apply func() error, err error) {
	file, err := appendTo(q.path)
	if err != nil {
		return nil, err
	}
	return func() error {
		q.mu.Lock()
		defer q.mu.Unlock()
		old := q.file
		q.file = file
		return old.Close()
	}, nil
}

// core writes what is logged to the file.
func (q *queryLog) core() zapcore.Core {
	c := zap.NewProductionEncoderConfig()
	c.EncodeTime, c.TimeKey = zapcore.RFC3339NanoTimeEncoder, "time"
	return zapcore.NewCore(zapcore.NewJSONEncoder(c), q, zap.InfoLevel)
}

// Write is of zapcore.WriteSyncer.
func (q *queryLog) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.file.Write(b)
}

// Sync is of zapcore.WriteSyncer.
func (q *queryLog) Sync() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.file.Sync()
}

// Close closes the file.
func (q *queryLog) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.file.Close()
}
