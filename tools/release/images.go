package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is one of the two images. It has the programs and nothing else: no shell, no other files.
type image struct {
	kind     string   // its tag is the version and the kind, as with the images of InfluxDB Enterprise
	programs []string // the first one is run
	ports    []string
}

var kinds = []image{
	{"data", []string{"influxd", "influx", "influx_inspect"}, []string{"8086/tcp", "8088/tcp"}},
	{"meta", []string{"influxd-meta", "influxd-ctl"}, []string{"8089/tcp", "8091/tcp"}},
}

// user runs the programs, and owns the data. It has a number, so that Kubernetes sees that it is not root.
const user = 65532

// images builds each image for all architectures. It writes a folder with all of them in the layout of OCI, and for
// each architecture a file for docker load. With push, it pushes them to that repository.
func (r release) images() error {
	indexes := map[string]v1.ImageIndex{}
	for _, k := range kinds {
		indexes[k.kind] = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	}
	for _, p := range r.linux() {
		if err := r.build(p); err != nil {
			return err
		}
		for _, k := range kinds {
			img, err := r.image(k, p)
			if err != nil {
				return fmt.Errorf("image %s for %s: %w", k.kind, p.arch, err)
			}
			indexes[k.kind] = mutate.AppendManifests(indexes[k.kind], mutate.IndexAddendum{
				Add:        img,
				Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.system, Architecture: p.arch}},
			})
			file := filepath.Join(r.out, fmt.Sprintf("concord-%s_%s_%s_image.tar", k.kind, r.number(), p.arch))
			tag, err := name.NewTag("concord:" + r.number() + "-" + k.kind)
			if err != nil {
				return err
			}
			if err := tarball.WriteToFile(file, tag, img); err != nil {
				return err
			}
		}
	}
	for kind, index := range indexes {
		folder := filepath.Join(r.out, "images", kind)
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
		if _, err := layout.Write(folder, index); err != nil {
			return err
		}
		if err := r.pushTo(kind, index); err != nil {
			return err
		}
	}
	return nil
}

// pushTo pushes the images of a kind to the repository of -push, if any, with the credentials that Docker has.
func (r release) pushTo(kind string, index v1.ImageIndex) error {
	if r.push == "" {
		return nil
	}
	tag, err := name.NewTag(r.push + ":" + r.number() + "-" + kind)
	if err != nil {
		return err
	}
	return remote.WriteIndex(tag, index, remote.WithAuthFromKeychain(authn.DefaultKeychain))
}

// image is an image for one architecture.
func (r release) image(k image, p platform) (v1.Image, error) {
	layer, err := r.layer(k, p)
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: r.date}, CreatedBy: "make image"},
	}); err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = p.system, p.arch, v1.Time{Time: r.date}
	c.Config = k.config(r.version)
	return mutate.ConfigFile(img, c)
}

func (k image) config(version string) v1.Config {
	program := "/usr/bin/" + k.programs[0]
	c := v1.Config{
		Entrypoint: []string{program},
		User:       fmt.Sprint(user),
		Env:        []string{"PATH=/usr/bin", "HOME=/var/lib/influxdb"},
		Volumes:    map[string]struct{}{"/var/lib/influxdb": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "concord-" + k.kind,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.licenses": "MIT",
		},
		ExposedPorts: map[string]struct{}{},
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", program, "health"}, Interval: 10 * time.Second, Timeout: 6 * time.Second,
			StartPeriod: time.Minute, Retries: 3,
		},
	}
	for _, port := range k.ports {
		c.ExposedPorts[port] = struct{}{}
	}
	return c
}

// layer has the files of an image.
func (r release) layer(k image, p platform) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, body []byte) error {
		h.Size, h.ModTime, h.Format = int64(len(body)), r.date, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	}
	folders := []tar.Header{
		{Name: "etc/", Mode: 0o755}, {Name: "etc/influxdb/", Mode: 0o755}, {Name: "tmp/", Mode: 0o1777},
		{Name: "usr/", Mode: 0o755}, {Name: "usr/bin/", Mode: 0o755},
		{Name: "var/", Mode: 0o755}, {Name: "var/lib/", Mode: 0o755},
		{Name: "var/lib/influxdb/", Mode: 0o755, Uid: user, Gid: user},
	}
	for _, h := range folders {
		h.Typeflag = tar.TypeDir
		if err := add(h, nil); err != nil {
			return nil, err
		}
	}
	users := fmt.Sprintf("root:x:0:0::/:/none\ninfluxdb:x:%d:%[1]d::/var/lib/influxdb:/none\n", user)
	if err := add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte(users)); err != nil {
		return nil, err
	}
	for _, program := range k.programs {
		body, err := os.ReadFile(filepath.Join(r.folder(p), program))
		if err != nil {
			return nil, err
		}
		if err := add(tar.Header{Name: "usr/bin/" + program, Mode: 0o755}, body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}
