// Package images says what a pod of an image runs on this machine.
//
// There are no image layers here: an image is a name in images.yaml with the command, environment and host folders that
// the real image would bring. A name that is not in the file cannot be pulled.
package images

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Image is one entry of images.yaml. Relative paths are the project's.
type Image struct {
	Entrypoint []string          `json:"entrypoint"`
	Cmd        []string          `json:"cmd"`
	Env        map[string]string `json:"env"`
	User       int64             `json:"user"`
	WorkingDir string            `json:"workingDir"`
	// Path is put before the usual folders of PATH.
	Path []string `json:"path"`
	// Binds are folders that the pod sees read-only at the same absolute path. A Python environment brings its interpreter.
	Binds []string `json:"binds"`
}

type file struct {
	Images map[string]Image `json:"images"`
}

// Catalog reads images.yaml at each look-up, so that an edit needs no restart.
type Catalog struct {
	File    string
	Project string
}

// NotFoundError says which images there are.
type NotFoundError struct {
	Image string
	File  string
	Known []string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("failed to pull image %q: not found: this cluster runs no containers, only the images that %s describes (%s)",
		e.Image, e.File, strings.Join(e.Known, ", "))
}

// Lookup finds an image by its reference, of which registry, tag and digest do not count.
func (c *Catalog) Lookup(reference string) (*Image, error) {
	content, err := os.ReadFile(c.File)
	if err != nil {
		return nil, fmt.Errorf("failed to pull image %q: %w", reference, err)
	}
	var parsed file
	if err := yaml.UnmarshalStrict(content, &parsed); err != nil {
		return nil, fmt.Errorf("failed to pull image %q: %s: %w", reference, c.File, err)
	}
	image, ok := parsed.Images[name(reference)]
	if !ok {
		known := make([]string, 0, len(parsed.Images))
		for key := range parsed.Images {
			known = append(known, key)
		}
		slices.Sort(known)
		return nil, &NotFoundError{Image: reference, File: c.File, Known: known}
	}
	image.Path = c.absolute(image.Path)
	image.Binds = c.withInterpreters(c.absolute(image.Binds))
	return &image, nil
}

// name strips registry host, tag and digest from an image reference.
func name(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if colon := strings.LastIndex(reference, ":"); colon > strings.LastIndex(reference, "/") {
		reference = reference[:colon]
	}
	if host, rest, found := strings.Cut(reference, "/"); found && (strings.ContainsAny(host, ".:") || host == "localhost") {
		reference = rest
	}
	return strings.TrimPrefix(reference, "library/")
}

func (c *Catalog) absolute(paths []string) []string {
	result := make([]string, 0, len(paths))
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.Project, path)
		}
		result = append(result, path)
	}
	return result
}

// withInterpreters adds the Python installation behind each virtual environment: its `home` and what its links lead to.
func (c *Catalog) withInterpreters(binds []string) []string {
	for _, bind := range slices.Clone(binds) {
		home := pythonHome(filepath.Join(bind, "pyvenv.cfg"))
		if home == "" {
			continue
		}
		real, err := filepath.EvalSymlinks(filepath.Join(bind, "bin", "python"))
		for _, bin := range []string{home, filepath.Dir(real)} {
			prefix := filepath.Dir(bin)
			if err == nil && prefix != "/usr" && prefix != "/" && !slices.Contains(binds, prefix) {
				binds = append(binds, prefix)
			}
		}
	}
	return binds
}

func pythonHome(config string) string {
	handle, err := os.Open(config)
	if err != nil {
		return ""
	}
	defer handle.Close()
	for lines := bufio.NewScanner(handle); lines.Scan(); {
		if key, value, found := strings.Cut(lines.Text(), "="); found && strings.TrimSpace(key) == "home" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
