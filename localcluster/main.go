// Command localcluster is a whole Kubernetes control plane, kubectl and Helm in one binary.
//
// It exists so that `make demo` and `make test` have a real API server, and pods that really run, on a machine without
// Docker. The first argument names the component; started under the name of a client (kubectl, helm) it is that client.
// Package node says how pods run and what it does not do.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	etcd "go.etcd.io/etcd/server/v3/etcdmain"
	helm "helm.sh/helm/v4/pkg/cmd"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	"finetune-operator.io/localcluster/supervisor"
)

const usage = `usage: localcluster up|run [--dir .localcluster] [--project .]    start a cluster, in the background or here
       localcluster down [--dir .localcluster] [--purge]         end it; --purge forgets its state too
       localcluster status [--dir .localcluster]
       localcluster kubectl|helm|etcd|kube-apiserver|kube-controller-manager|kube-scheduler ...
`

func runHelm() int {
	cmd, err := helm.NewRootCmd(os.Stdout, os.Args[1:], helm.SetupLogging)
	if err != nil {
		slog.Warn("command failed", "error", err)
		return 1
	}
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return 0
}

func main() {
	name := filepath.Base(os.Args[0])
	if name != "kubectl" && name != "helm" && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	switch name {
	case "etcd":
		etcd.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	case "helm":
		os.Exit(runHelm())
	case "up", "down", "run", "status":
		os.Exit(supervisor.Main(name, os.Args[1:]))
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
}
