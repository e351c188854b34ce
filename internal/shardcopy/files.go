package shardcopy

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/durable"
	"concord/internal/rpc"
	"concord/internal/snapshot"
)

// maxFiles bounds the files of a shard.
const maxFiles = 100_000

// travels tells whether a file of a shard's folder is part of a copy: points, or what was deleted from them.
func travels(name string) bool {
	base, isTombstone := strings.CutSuffix(name, tombstoneSuffix)
	if isTombstone {
		name = base + tsmSuffix
	}
	if name != filepath.Base(name) || !strings.HasSuffix(name, tsmSuffix) {
		return false
	}
	_, _, err := tsm1.DefaultParseFileName(name)
	return err == nil
}

// Files streams the files of a shard, with what is in the write cache in a file, as they are at one moment. Of
// those that the caller has to some point the rest is sent.
func (s *Server) Files(r *rpc.FilesRequest, stream grpc.ServerStreamingServer[rpc.FilesChunk]) error {
	if s.Store.Shard(r.ShardId) == nil {
		return status.Errorf(codes.NotFound, "shard %d is not on this node", r.ShardId)
	}
	if len(r.Have) > 2*maxFiles {
		return status.Errorf(codes.InvalidArgument, "%d files are too many", len(r.Have))
	}
	if err := s.checkWhole(stream.Context(), r.ShardId, r.Incomplete); err != nil {
		return err
	}
	if err := s.noDelete(r.ShardId); err != nil {
		return err
	}
	dir, err := snapshot.Take(s.Store.Store, r.ShardId)
	if err != nil {
		return status.Errorf(codes.Internal, "snapshot of shard %d: %s", r.ShardId, err)
	}
	defer os.RemoveAll(dir)
	files, err := manifest(dir, r.Have)
	if err == nil {
		err = stream.Send(&rpc.FilesChunk{Files: files})
	}
	for i := range files {
		if err == nil {
			err = s.sendFile(stream, dir, uint32(i), files[i])
		}
	}
	if err == nil || status.Code(err) != codes.Unknown {
		return err
	}
	return status.Errorf(codes.Internal, "files of shard %d: %s", r.ShardId, err)
}

// manifest lists the files of dir, with how much of each the caller has.
func manifest(dir string, have []*rpc.FilesRequest_Have) ([]*rpc.FilesChunk_File, error) {
	had := make(map[string]*rpc.FilesRequest_Have, len(have))
	for _, h := range have {
		had[h.Name] = h
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []*rpc.FilesChunk_File
	for _, n := range names {
		if !travels(n.Name()) {
			continue
		}
		info, err := n.Info()
		if err != nil {
			return nil, err
		}
		f := &rpc.FilesChunk_File{Name: n.Name(), Size: info.Size()}
		if h := had[f.Name]; h != nil && h.Bytes > 0 && h.Bytes <= f.Size {
			sum, err := checksum(filepath.Join(dir, f.Name), h.Bytes)
			if err != nil {
				return nil, err
			}
			if sum == h.Checksum {
				f.From = h.Bytes
			}
		}
		files = append(files, f)
	}
	return files, nil
}

// checksum is the CRC-32C of the first n bytes of a file.
func checksum(path string, n int64) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := crc32.New(castagnoli)
	if _, err := io.CopyN(h, f, n); err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return h.Sum32(), nil
}

func (s *Server) sendFile(
	stream grpc.ServerStreamingServer[rpc.FilesChunk], dir string, at uint32, file *rpc.FilesChunk_File,
) error {
	path := filepath.Join(dir, file.Name)
	sum, err := checksum(path, file.From)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(file.From, io.SeekStart); err != nil {
		return err
	}
	left := file.Size - file.From
	for left > 0 {
		buf := make([]byte, min(left, chunkBytes)) // the message is kept until it is sent
		if _, err := io.ReadFull(f, buf); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if err := s.wait(stream.Context(), len(buf)); err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli, buf)
		left -= int64(len(buf))
		if err := stream.Send(&rpc.FilesChunk{File: at, Data: buf}); err != nil {
			return err
		}
	}
	return stream.Send(&rpc.FilesChunk{File: at, Last: true, Checksum: sum})
}

// stage is a folder in which the files of a shard gather.
type stage struct{ dir string }

// have is what is there.
func (g stage) have() ([]*rpc.FilesRequest_Have, error) {
	names, err := os.ReadDir(g.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*rpc.FilesRequest_Have
	for _, n := range names {
		info, err := n.Info()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || !travels(n.Name()) {
			if err := os.RemoveAll(filepath.Join(g.dir, n.Name())); err != nil {
				return nil, err
			}
			continue
		}
		sum, err := checksum(filepath.Join(g.dir, n.Name()), info.Size())
		if err != nil {
			return nil, err
		}
		out = append(out, &rpc.FilesRequest_Have{Name: n.Name(), Bytes: info.Size(), Checksum: sum})
	}
	return out, nil
}

// begin makes room for files: it removes what is none of them, and cuts the others to what counts. It returns the
// bytes that are there, and that will be.
func (g stage) begin(files []*rpc.FilesChunk_File) (done, total int64, err error) {
	if len(files) > maxFiles {
		return 0, 0, fmt.Errorf("%d files are too many", len(files))
	}
	if err := os.MkdirAll(g.dir, 0o750); err != nil {
		return 0, 0, err
	}
	of := make(map[string]bool, len(files))
	for _, f := range files {
		if !travels(f.Name) || of[f.Name] || f.From < 0 || f.From > f.Size {
			return 0, 0, fmt.Errorf("%q of %d bytes, from %d, is not a valid file of a shard", f.Name, f.Size, f.From)
		}
		of[f.Name] = true
		done, total = done+f.From, total+f.Size
	}
	names, err := os.ReadDir(g.dir)
	if err != nil {
		return 0, 0, err
	}
	for _, n := range names {
		if !of[n.Name()] {
			if err := os.RemoveAll(filepath.Join(g.dir, n.Name())); err != nil {
				return 0, 0, err
			}
		}
	}
	return done, total, nil
}

// take writes a file from where it counts to its end, and syncs it.
func (g stage) take(file *rpc.FilesChunk_File, next func() (*rpc.FilesChunk, error)) (err error) {
	path := filepath.Join(g.dir, file.Name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := crc32.New(castagnoli)
	if n, err := io.CopyN(h, f, file.From); err != nil {
		return fmt.Errorf("%s has %d bytes, not %d: %w", path, n, file.From, err)
	}
	if err := f.Truncate(file.From); err != nil {
		return err
	}
	sum, size := h.Sum32(), file.From
	for {
		c, err := next()
		if err != nil {
			return errors.Join(err, f.Sync())
		}
		if c.Last {
			if size != file.Size || c.Checksum != sum {
				return errors.Join(fmt.Errorf("%s came with %d bytes and another checksum than the %d bytes that were sent",
					file.Name, size, file.Size), os.Remove(path))
			}
			return f.Sync()
		}
		if size += int64(len(c.Data)); size > file.Size {
			return errors.Join(fmt.Errorf("%s has more than its %d bytes", file.Name, file.Size), os.Remove(path))
		}
		if _, err := f.Write(c.Data); err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli, c.Data)
	}
}

// moveTo moves the files into a folder, which may be on another file system.
func (g stage) moveTo(dir string) error {
	names, err := os.ReadDir(g.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := move(filepath.Join(g.dir, n.Name()), filepath.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return durable.SyncDir(dir)
}

func move(from, to string) error {
	err := os.Rename(from, to)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
