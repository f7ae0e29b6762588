# Keeps the standby's manifest in the kubelet's folder, as long as the agent does not wish it gone. The only part of an agent's
# pod that stays root: who can write there is root on the node, so the agent itself may not. Folders: /store, /manifests.
set -u
umask 077
store=/store manifest="/manifests/$MANIFEST" wanted=/standby/pod.yaml
trap 'exit 0' TERM INT
laid=no
while :; do
  if [ -e "$store/retire" ]; then
    rm -f "$manifest" && : > "$store/retired"
  else
    rm -f "$store/retired"
    # A kubelet starts a static pod anew whenever its file changes, so it is written only when it differs, and by rename. Two
    # of us are here while one pod follows another: the newer one has the last word, as each compares only once.
    if [ ! -e "$manifest" ] || { [ $laid = no ] && ! cmp -s "$wanted" "$manifest"; }; then
      cp "$wanted" "/manifests/.$MANIFEST.tmp" && mv "/manifests/.$MANIFEST.tmp" "$manifest" && echo "laid down $MANIFEST"
    fi
    laid=yes
  fi
  sleep 3 & wait $!
done
