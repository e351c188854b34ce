package devcluster_test

import (
	"os"

	"go.uber.org/zap"
)

func dbgLog() *zap.Logger {
	if os.Getenv("DBG") == "" {
		return nil
	}
	l, _ := zap.NewDevelopment()
	return l
}
