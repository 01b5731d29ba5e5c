def check(plan, gm):
    pass
