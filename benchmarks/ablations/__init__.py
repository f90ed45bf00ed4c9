"""What a choice in training costs or brings: short trainings of the shipped base that differ in one thing each.

    python -m benchmarks.ablations --steps 150 --minutes 60

Every arm has as many steps of the same size as the others, so that nothing depends on how busy the machine was. Results
go to `benchmarks/results/ablations.json`, arm by arm: a finished one is not trained again.

    arms        the arms, as training configurations
    curve       one arm's training and what is measured of it on the way
    __main__    the command: what is still to do, and the file
"""
